"""Bulk mode: keep shards and embeddings in a bucket, and verify them when they are read.

An object's name holds the sha256 of its content; an entry of the manifest names the object. Small files that
list, describe or join shards stay in the local folder. Nothing here removes an object, because a manifest of
an earlier run may name it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from components.errors import ConfigurationError, DataError, InfrastructureError
from components.storage.atomic import link_or_copy, new_folder, remove
from components.storage.buckets.bucket import Bucket, open_bucket
from components.storage.manifest import (
    EMBEDDINGS,
    SHARD_SUFFIX,
    VECTORS_SUFFIX,
    Entry,
    listed,
    read_manifest,
    verify,
    write_manifest,
)

SHARDS = "shards"  # folder of the shard objects below a data root
MARK, MARK_TEXT = "data_root.txt", b"Shards of an LLM2CLIP pipeline, named by their content.\n"
FETCHED = "fetched"  # below a stage's work folder
log = logging.getLogger("llm2clip")


def open_data_root(uri: str) -> Bucket:
    """Open the bucket that shards go to, and write a marker file there whose content never changes.

    Raises:
        ConfigurationError: the bucket does not exist, or credentials are missing, refused or may not write.
        InfrastructureError: the endpoint does not answer.
    """
    root = open_bucket(uri)
    root.write(MARK, MARK_TEXT)
    return root


def forget_lost(piece_folder: Path, root: Bucket | None) -> None:
    """Download the shards of a cached result that are not in `root`; remove the result if one is lost.

    This is called before a cached result is used; a removed result is built again. A shard that somebody
    copied to `root` is found by its name. If the copy lacks the metadata of the original, the shard is
    downloaded and compared, like a shard that is only in its former bucket; `keep_remote` then uploads it as
    usual.

    Args:
        piece_folder: Folder of the cached result; it may not exist.
        root: The bucket that shards go to; None for this machine.

    Raises:
        ConfigurationError: a former bucket refuses access, which is no proof that the shard is lost.
        InfrastructureError: a bucket does not answer.
    """
    try:
        entries = listed(piece_folder) if piece_folder.is_dir() else []
    except DataError:
        return  # `get_or_build` builds it again
    elsewhere = [
        entry
        for entry in entries
        if entry.is_remote and not (root and root.holds(object_name(entry), entry.bytes, entry.sha256))
    ]
    if not elsewhere:
        return
    try:
        _download_shards(piece_folder, elsewhere, root)
    except DataError as error:
        target = f"in {root.uri}" if root else "on this machine"
        log.warning("%s is needed %s: %s: the shard is made again", elsewhere[0].uri, target, error)
        remove(piece_folder)


def _download_shards(piece_folder: Path, shards: list[Entry], root: Bucket | None) -> None:
    """Turn remote shards of a cached result into local files again."""
    entries = read_manifest(piece_folder)
    with new_folder(piece_folder) as part:
        for shard in shards:
            _download(shard, root, part / PurePosixPath(shard.path).name, piece_folder)
        for entry in entries:
            if not entry.is_remote:
                link_or_copy(piece_folder / entry.uri, part / entry.uri)
        write_manifest(part, known=[entry for entry in entries if entry.is_remote and entry not in shards])


def _download(shard: Entry, root: Bucket | None, path: Path, piece_folder: Path) -> None:
    """Download a shard from `root` if the right one is there, else from the bucket it was uploaded to."""
    former_root = _root_of(shard)
    if root:
        try:
            return root.download_file(object_name(shard), path, shard.sha256)
        except DataError:
            if root.uri == former_root:
                raise
    try:
        open_bucket(former_root, greet=False).download_file(object_name(shard), path, shard.sha256)
    except (ConfigurationError, InfrastructureError) as error:
        raise type(error)(
            f"{error}; if that place is gone for good, remove {piece_folder.parent}: all is made again"
        ) from None


def keep_remote(piece_folder: Path, root: Bucket, below: str = "") -> None:
    """Upload the shards or vectors of a cached result; its manifest then lists them as remote.

    The local file is removed once the manifest has the remote entry. If the process is killed before that,
    the next run only has to ask again whether the object exists. The upload needs no condition, because the
    same name always has the same bytes.

    Args:
        piece_folder: Folder of the cached result.
        root: The bucket to upload to.
        below: Folder of the vectors in the artifact, such as `tuned/dense`; empty for shards.

    Raises:
        DataError: a file of the cached result is damaged.
        InfrastructureError: the endpoint failed for longer than the retries last.
    """
    entries = listed(piece_folder)
    shards = [entry for entry in entries if entry.is_shard or entry.is_vectors]
    names = {entry: object_name(_artifact_entry(entry, below)) for entry in shards}
    remote = [replace(entry, uri=f"{root.uri}/{names[entry]}") for entry in shards]
    if remote == shards:
        return
    for entry in shards:
        if not entry.is_remote:
            root.upload_file(piece_folder / entry.uri, names[entry], entry.sha256)
    with new_folder(piece_folder) as part:
        for entry in entries:
            if entry not in shards:
                verify(piece_folder, entry)
                link_or_copy(piece_folder / entry.uri, part / entry.uri)
        write_manifest(part, known=remote)


@contextmanager
def local_copy(folder: Path, entry: Entry, work: Path) -> Iterator[Path]:
    """Yield a file of a verified manifest as a local path, for the duration of the block.

    A remote file is first downloaded whole and its sha256 compared. A stream would be verified only at its
    last byte, after a consumer has decoded, captioned or counted half a shard of a wrong object. Each reader
    needs disk space for one shard; the space is held beyond the block only while the file stays mapped.

    Args:
        folder: Folder of the manifest.
        entry: An entry from `read_manifest`.
        work: The stage's folder in the work store; leftovers of a killed run are removed at the next start.

    Raises:
        DataError: the object is missing or has another sha256.
        ConfigurationError: the credentials are refused.
        InfrastructureError: the endpoint failed for longer than the retries last.
    """
    if not entry.is_remote:
        yield folder / entry.uri
        return
    (work / FETCHED).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=work / FETCHED) as temporary:
        path = Path(temporary) / PurePosixPath(entry.path).name
        try:
            open_bucket(_root_of(entry), greet=False).download_file(object_name(entry), path, entry.sha256)
        except DataError as error:
            raise DataError(
                f"{error}: restore it from a copy, or remove it if it is there and "
                f"`dvc repro --force {'embed_captions' if entry.is_vectors else 'download'}` makes it again"
            ) from None
        yield path


def object_name(entry: Entry) -> str:
    """Return a file's object name below a data root; it holds the sha256, so each content has its name."""
    if entry.is_vectors:
        name = entry.path.removesuffix(VECTORS_SUFFIX).replace("/", ".")
        return f"{EMBEDDINGS}/{name}-{entry.sha256}{VECTORS_SUFFIX}"
    return f"{SHARDS}/{entry.name}-{entry.sha256}{SHARD_SUFFIX}"


def _artifact_entry(entry: Entry, below: str) -> Entry:
    """Return the entry of a cached result's file with its path in the artifact."""
    return entry if entry.is_remote or not below else replace(entry, uri=f"{below}/{entry.uri}")


def _root_of(entry: Entry) -> str:
    return entry.uri.rsplit("/", 2)[0]
