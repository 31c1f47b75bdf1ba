"""Copy a model from the Hugging Face hub or its cache and verify every file."""

from __future__ import annotations

import logging
import os
import re
from hashlib import sha1
from pathlib import Path

from components.base_models.model_files import WORDS
from components.errors import ConfigurationError, DataError, InfrastructureError, PipelineError
from components.http.retry import STATUSES
from components.running.model_weights import WEIGHTS
from components.settings.base_models import HubModel
from components.settings.environment import PLAIN_HTTP_HOSTS, load_environment, plain_http_host

BELOW_THE_TOP = "*/*"
ORIGINALS = f"consolidated*{WEIGHTS}"  # the same once more, as Mistral's own code reads it
GIT_SHA1, SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")

logger = logging.getLogger(__name__)


def snapshot(section: HubModel, *, with_modules: bool) -> Path:
    """Return the folder of the hub's cache that holds a revision's weights and words.

    HF_HUB_OFFLINE keeps it to the cache; HF_TOKEN opens gated models.

    Args:
        section: Of params.
        with_modules: Whether files below the top are brought as well.

    Raises:
        ConfigurationError: there is no such model, it may not be read, or it is not in the cache and the hub
            cannot be reached.
        InfrastructureError: the hub answers, but not now, or is lost on the way.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )
    from huggingface_hub.errors import HTTPError as ClientError  # type: ignore[attr-defined]

    _check_secrecy()
    try:
        return Path(
            snapshot_download(
                section.id,
                revision=section.revision,
                allow_patterns=[f"*{WEIGHTS}", *WORDS],
                ignore_patterns=[ORIGINALS] if with_modules else [ORIGINALS, BELOW_THE_TOP],
                max_workers=4,
            )
        )
    except HFValidationError as error:
        raise ConfigurationError(
            f"{str(error).splitlines()[0]}; expected an id of the hub, owner/name"
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        # says so of a hub that answers as well, where the revision is not in the cache
        if isinstance(error.__cause__, HfHubHTTPError):
            raise _answer(section, error.__cause__.response.status_code) from None
        raise ConfigurationError(
            f"{section.id} at {section.revision} is not in the hub's cache and the hub cannot be reached; "
            "expected either: run once with network and without HF_HUB_OFFLINE, or take kind: folder"
        ) from None
    except HfHubHTTPError as error:
        raise _answer(section, error.response.status_code) from None
    except ClientError as error:  # of the HTTP client below, whichever that is
        raise InfrastructureError(
            f"the hub was lost while {section.id} at {section.revision} came ({type(error).__name__}: "
            f"{error}); what came is kept, run again"
        ) from None


def _check_secrecy() -> None:
    """Refuse to send the hub's token unencrypted to a mirror.

    Raises:
        ConfigurationError: HF_ENDPOINT is plain http, and there is a token.
    """
    from huggingface_hub import constants, get_token

    host = plain_http_host(constants.ENDPOINT, load_environment().plain_http_hosts)
    if host and not constants.HF_HUB_OFFLINE and get_token():
        raise ConfigurationError(
            f"the token of the hub (HF_TOKEN) would go to {host} (HF_ENDPOINT) over plain http; expected "
            f"https: change the address, unset the token, or name the host in {PLAIN_HTTP_HOSTS}"
        )


def names_on_hub(section: HubModel) -> list[str]:
    """Return the names of all files at the top of a revision; none where the hub cannot be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.errors import HTTPError as ClientError  # type: ignore[attr-defined]

    try:
        names = HfApi().list_repo_files(section.id, revision=section.revision)
    except (HfHubHTTPError, OfflineModeIsEnabled, ClientError):
        return []
    return [name for name in names if "/" not in name]


def _answer(section: HubModel, status: int) -> PipelineError:
    found = f"the hub answers {status} for {section.id} at {section.revision}"
    if status in STATUSES:
        return InfrastructureError(f"{found}; try again later")
    return ConfigurationError(f"{found}; expected a model and revision that exist and that HF_TOKEN may read")


def check_hashes(digests: dict[Path, str]) -> None:
    """Hold files of the hub's cache to the hashes that the cache names them by.

    A snapshot's file links to `blobs/<hash>`: the sha256 of a large file, git's hash of a small one. Where
    the cache's disk has no links the files are copies, and nothing says what they should be.

    Args:
        digests: The sha256 of each file of a snapshot.

    Raises:
        DataError: a file's content is another one.
    """
    unnamed = [path for path in digests if not path.is_symlink()]
    if unnamed and len(unnamed) < len(digests):  # an editor that writes beside and renames leaves such a file
        raise DataError(
            f"{unnamed[0]} is a file among links in the hub's cache, {len(unnamed)} of {len(digests)} are; "
            "expected links to blobs named by their hashes: remove it and run again to have it linked"
        )
    if unnamed:
        logger.warning(
            "no links in the hub's cache, so nothing to compare their hashes with: %s",
            ", ".join(str(path) for path in unnamed),
        )
        return
    for path, sha256 in digests.items():
        blob = path.parent / os.readlink(path)  # which may itself link to a store that repositories share
        if SHA256.fullmatch(blob.name):
            found = sha256
        elif GIT_SHA1.fullmatch(blob.name):
            found = _git_sha1(path)
        else:
            raise DataError(
                f"{path} links to {blob}; expected a blob named by its hash: remove {path.parent}"
            )
        if found != blob.name:
            raise DataError(
                f"{path} is damaged in the hub's cache: its hash is {found[:12]}..., expected "
                f"{blob.name[:12]}...; remove {blob} and run again to fetch it"
            )


def _git_sha1(path: Path) -> str:
    data = path.read_bytes()
    return sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
