"""Copy a release to the registry: blobs first, its manifest last and only once, then the alias `latest`.

models/<name>/<version>/...              the release as it is; manifest.json makes it visible
models/<name>/<version>/published.json   when and from which commit; not part of the version
models/<name>/aliases/latest.json        the version that was published last
"""

from __future__ import annotations

import json
import logging
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.errors import DataError, InfrastructureError
from components.register.lineage import code_key
from components.running.progress import Progress
from components.settings.environment import Environment
from components.storage.atomic import read_json
from components.storage.buckets.bucket import Bucket, open_bucket
from components.storage.layout import MANIFEST, Layout
from components.storage.manifest import read_manifest

ALIAS = "latest"
ALIAS_ATTEMPTS = 20
GIT_SECONDS = 10
log = logging.getLogger("llm2clip")


def publish(layout: Layout, env: Environment) -> str:
    """Copy the release of artifacts/register to `LLM2CLIP_REGISTRY` unless it is there; return its URI.

    Raises:
        DataError: there is no intact release, or the registry has another one under the same version.
        ConfigurationError: no such bucket, refused credentials, or a store without conditional writes.
        InfrastructureError: the registry does not answer or cannot be written to.
    """
    release = layout.artifact("register")
    entries = read_manifest(release)
    about = read_json(release / "release.json")
    bucket = open_bucket(env.registry)
    folder = f"models/{about['name']}/{about['version']}"
    try:
        if _is_published(bucket, release, folder):
            log.info("%s %s is in the registry already; nothing was copied", about["name"], about["version"])
        else:
            bucket.check_conditions()
            progress = Progress(layout.work("register"), "publish", len(entries), "files")
            for entry in entries:
                bucket.upload_file(release / entry.uri, f"{folder}/{entry.uri}", entry.sha256)
                progress.advance()
            bucket.write(f"{folder}/published.json", _json(_provenance(layout)), if_absent=True)
            manifest = (release / MANIFEST).read_bytes()
            is_first = bucket.write(f"{folder}/{MANIFEST}", manifest, if_absent=True)
            _is_published(bucket, release, folder)
            outcome = "is published" if is_first else "was published by another process just now"
            log.info("%s %s %s", about["name"], about["version"], outcome)
        move_alias(bucket, about["name"], ALIAS, about["version"])
    except OSError as error:
        raise InfrastructureError(
            f"{bucket.uri} cannot be written to ({error.strerror or error}); fix it and rerun"
        ) from None
    return f"{bucket.uri}/{folder}"


def move_alias(bucket: Bucket, name: str, alias: str, version: str) -> bool:
    """Point an alias at a version, by compare-and-swap, so that no concurrent move is lost unnoticed.

    Returns:
        Whether it pointed at another version before.

    Raises:
        InfrastructureError: other processes moved it at each attempt.
    """
    path = f"models/{name}/aliases/{alias}.json"
    for _ in range(ALIAS_ATTEMPTS):
        current = bucket.read(path)
        previous = json.loads(current[0])["version"] if current else None
        if previous == version:
            return False
        data = _json({"version": version, "previous": previous})
        is_moved = (
            bucket.write(path, data, if_match=current[1])
            if current
            else bucket.write(path, data, if_absent=True)
        )
        if is_moved:
            return True
    raise InfrastructureError(
        f"{bucket.uri}/{path} was moved by other processes {ALIAS_ATTEMPTS} times; rerun"
    )


def _is_published(bucket: Bucket, release: Path, folder: str) -> bool:
    """Return whether this release is visible in the registry."""
    manifest = bucket.read(f"{folder}/{MANIFEST}")
    if manifest and manifest[0] != (release / MANIFEST).read_bytes():
        raise DataError(
            f"{bucket.uri}/{folder} holds another release under this version; expected the same files: "
            "compare both manifest.json, then remove the wrong one"
        )
    return manifest is not None


def _provenance(layout: Layout) -> dict[str, Any]:
    """Return the time, commit and code of a publication, and what decides the bits of its training.

    A value is null where git does not answer in time, in a folder without git, and for a training that DVC
    restored from another machine.
    """
    costs = layout.costs("train_clip")
    trained = read_json(costs) if costs.is_file() else {}
    changes = _git("status", "--porcelain")
    return {
        "code_sha256": code_key(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changed_files": None if changes is None else len(changes.splitlines()),
        "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "trained_with": {name: trained.get(name) for name in ("torch", "threads", "instruction_set")},
    }


def _git(*arguments: str) -> str | None:
    """Return what git prints, or None; a release never waits for a slow disk or fails without git."""
    command = ["git", "--no-optional-locks", *arguments]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=GIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        log.warning("git %s took over %d s; the release is published without it", arguments[0], GIT_SECONDS)
        return None
    except OSError:  # no git, or none that may be run
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _json(tree: dict[str, Any]) -> bytes:
    return f"{json.dumps(tree, indent=2, sort_keys=True)}\n".encode()
