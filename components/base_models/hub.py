"""Fetch a model from the Hugging Face hub or its cache and verify the hash of every file."""

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
ORIGINALS = f"consolidated*{WEIGHTS}"  # the same weights again, for Mistral's own code
GIT_SHA1, SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")

logger = logging.getLogger(__name__)


def snapshot(section: HubModel, *, with_modules: bool) -> Path:
    """Fetch a revision into the hub's cache; return its folder with weights, configs and tokenizer.

    With HF_HUB_OFFLINE only the cache is read. HF_TOKEN gives access to gated models.

    Args:
        section: Model id and revision, from params.
        with_modules: Whether to fetch files in subfolders too.

    Raises:
        ConfigurationError: the model does not exist, may not be read, or is not in the cache while the hub
            cannot be reached.
        InfrastructureError: the hub is temporarily unavailable, or the connection to it broke off.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )
    from huggingface_hub.errors import HTTPError as ClientError  # type: ignore[attr-defined]

    _check_token_encrypted()
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
        # also raised after an HTTP error of the hub, if the revision is not in the cache
        if isinstance(error.__cause__, HfHubHTTPError):
            raise _hub_error(section, error.__cause__.response.status_code) from None
        raise ConfigurationError(
            f"{section.id} at {section.revision} is not in the hub's cache and the hub cannot be reached; "
            "expected one of the two; run once with network and without HF_HUB_OFFLINE, or use kind: folder"
        ) from None
    except HfHubHTTPError as error:
        raise _hub_error(section, error.response.status_code) from None
    except ClientError as error:  # of whichever HTTP client the hub library uses
        raise InfrastructureError(
            f"the connection to the hub broke off during {section.id} at {section.revision} "
            f"({type(error).__name__}: {error}); complete files are kept; rerun"
        ) from None


def _check_token_encrypted() -> None:
    """Refuse to send the hub's token unencrypted to a mirror.

    Raises:
        ConfigurationError: HF_ENDPOINT is plain http, and a token is set.
    """
    from huggingface_hub import constants, get_token

    host = plain_http_host(constants.ENDPOINT, load_environment().plain_http_hosts)
    if host and not constants.HF_HUB_OFFLINE and get_token():
        raise ConfigurationError(
            f"the token of the hub (HF_TOKEN) would go to {host} (HF_ENDPOINT) over plain http; expected "
            f"https; change the address, unset the token, or name the host in {PLAIN_HTTP_HOSTS}"
        )


def names_on_hub(section: HubModel) -> list[str]:
    """Return the names of all files at the top of a revision; an empty list if the hub cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.errors import HTTPError as ClientError  # type: ignore[attr-defined]

    try:
        names = HfApi().list_repo_files(section.id, revision=section.revision)
    except (HfHubHTTPError, OfflineModeIsEnabled, ClientError):
        return []
    return [name for name in names if "/" not in name]


def _hub_error(section: HubModel, status: int) -> PipelineError:
    problem = f"the hub answers {status} for {section.id} at {section.revision}"
    if status in STATUSES:
        return InfrastructureError(f"{problem}; rerun later")
    return ConfigurationError(
        f"{problem}; expected a model and revision that exist and that HF_TOKEN may read"
    )


def check_hashes(digests: dict[Path, str]) -> None:
    """Check files of the hub's cache against the hashes in their blob names.

    A snapshot's file links to `blobs/<hash>`: the sha256 of a large file, git's SHA-1 of a small one. On a
    disk without links the files are copies, and there is no hash to compare with.

    Args:
        digests: The sha256 of each file of a snapshot.

    Raises:
        DataError: a file does not have the hash it should have.
    """
    unnamed = [path for path in digests if not path.is_symlink()]
    if unnamed and len(unnamed) < len(digests):  # an editor that saves by renaming leaves such a file
        raise DataError(
            f"{unnamed[0]} is a file among links in the hub's cache, {len(unnamed)} of {len(digests)} are; "
            "expected links to blobs named by their hashes; remove it and rerun to get the link back"
        )
    if unnamed:
        logger.warning(
            "no links in the hub's cache, so nothing to compare their hashes with: %s",
            ", ".join(str(path) for path in unnamed),
        )
        return
    for path, sha256 in digests.items():
        blob = path.parent / os.readlink(path)  # may itself link to a store shared by repositories
        if SHA256.fullmatch(blob.name):
            actual = sha256
        elif GIT_SHA1.fullmatch(blob.name):
            actual = _git_sha1(path)
        else:
            raise DataError(
                f"{path} links to {blob}; expected a blob named by its hash; remove {path.parent} and rerun"
            )
        if actual != blob.name:
            raise DataError(
                f"{path} is damaged in the hub's cache: its hash is {actual[:12]}..., expected "
                f"{blob.name[:12]}...; remove {blob} and rerun to fetch it"
            )


def _git_sha1(path: Path) -> str:
    data = path.read_bytes()
    return sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
