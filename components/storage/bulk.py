"""Bulk mode: shards and embeddings in a bucket, under names that carry their content's hash, read verified.

A manifest's entry names the object; what lists, describes or joins shards stays in the folder and is small.
Nothing here removes an object: a manifest of an earlier run may name it.
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

SHARDS = "shards"  # the folder of the objects below a data root
MARK, MARK_TEXT = "data_root.txt", b"Shards of an LLM2CLIP pipeline, named by their content.\n"
FETCHED = "fetched"  # below a stage's work
log = logging.getLogger("llm2clip")


def open_data_root(uri: str) -> Bucket:
    """Open the place that shards go to; writes a mark there, always the same, and leaves it.

    Raises:
        ConfigurationError: no such bucket, or credentials that are missing, refused or may not write.
        InfrastructureError: the endpoint does not answer.
    """
    root = open_bucket(uri)
    root.write(MARK, MARK_TEXT)
    return root


def forget_lost(piece_folder: Path, root: Bucket | None) -> None:
    """Bring a finished piece's shard here if it is elsewhere than in `root`; remove the piece if it is lost.

    Asked before a piece is relied on; one that was removed is made again. A shard that somebody copied to
    `root` is found by its name. Where the copy came without what was written beside it, the shard is read and
    compared, as is one that only its former place has; `keep_remote` then writes it as any other.

    Args:
        piece_folder: Of the piece, there or not.
        root: Where shards go; None for this machine.

    Raises:
        ConfigurationError: a former place refuses; that is no proof that it lost the shard.
        InfrastructureError: a place does not answer.
    """
    try:
        entries = listed(piece_folder) if piece_folder.is_dir() else []
    except DataError:
        return  # `piece` makes it again
    elsewhere = [
        entry
        for entry in entries
        if entry.is_remote and not (root and root.holds(object_name(entry), entry.bytes, entry.sha256))
    ]
    if not elsewhere:
        return
    try:
        _bring_here(piece_folder, elsewhere, root)
    except DataError as fault:
        where = f"in {root.uri}" if root else "on this machine"
        log.warning("%s is wanted %s: %s: the shard is made again", elsewhere[0].uri, where, fault)
        remove(piece_folder)


def _bring_here(piece_folder: Path, shards: list[Entry], root: Bucket | None) -> None:
    """Have a piece keep these shards as files again."""
    entries = read_manifest(piece_folder)
    with new_folder(piece_folder) as part:
        for shard in shards:
            _download(shard, root, part / PurePosixPath(shard.place).name, piece_folder)
        for entry in entries:
            if not entry.is_remote:
                link_or_copy(piece_folder / entry.uri, part / entry.uri)
        write_manifest(part, known=[entry for entry in entries if entry.is_remote and entry not in shards])


def _download(shard: Entry, root: Bucket | None, path: Path, piece_folder: Path) -> None:
    """Bring a shard here, from `root` if it has the right one, else from where it was put."""
    former = _root_of(shard)
    if root:
        try:
            return root.download_file(object_name(shard), path, shard.sha256)
        except DataError:
            if root.uri == former:
                raise
    try:
        open_bucket(former, greet=False).download_file(object_name(shard), path, shard.sha256)
    except (ConfigurationError, InfrastructureError) as fault:
        raise type(fault)(
            f"{fault}; if that place is gone for good, remove {piece_folder.parent}: all is made again"
        ) from None


def keep_remote(piece_folder: Path, root: Bucket, below: str = "") -> None:
    """Put a finished piece's shards or vectors in the bucket; the piece keeps their entries in its manifest.

    The local file goes when the entry is in place: a kill before that costs one more question whether the
    object is there. No condition guards the upload, because who writes the same name writes the same bytes.

    Args:
        piece_folder: Of the piece.
        root: Where they go.
        below: Of vectors, their folder in the artifact: `tuned/dense`.

    Raises:
        DataError: a file of the piece is damaged.
        InfrastructureError: the endpoint failed for longer than is ridden out.
    """
    entries = listed(piece_folder)
    shards = [entry for entry in entries if entry.is_shard or entry.is_vectors]
    names = {entry: object_name(_placed(entry, below)) for entry in shards}
    kept = [replace(entry, uri=f"{root.uri}/{names[entry]}") for entry in shards]
    if kept == shards:
        return
    for entry in shards:
        if not entry.is_remote:
            root.upload_file(piece_folder / entry.uri, names[entry], entry.sha256)
    with new_folder(piece_folder) as part:
        for entry in entries:
            if entry not in shards:
                verify(piece_folder, entry)
                link_or_copy(piece_folder / entry.uri, part / entry.uri)
        write_manifest(part, known=kept)


@contextmanager
def local_copy(folder: Path, entry: Entry, work: Path) -> Iterator[Path]:
    """Yield a file of a verified manifest as a path on this machine, for the duration of the block.

    A remote file is first brought here whole and its sha256 compared: from a stream, a consumer would have
    decoded, captioned or counted half a shard before its last byte could tell that the object is the wrong
    one. It takes one shard's room on the disk per reader, and longer than the block only where the file stays
    mapped.

    Args:
        folder: Of the manifest.
        entry: As `read_manifest` gave it.
        work: The stage's folder in the work store; what a killed run left there is removed at the next start.

    Raises:
        DataError: the object is missing or is another one.
        ConfigurationError: refused credentials.
        InfrastructureError: the endpoint failed for longer than is ridden out.
    """
    if not entry.is_remote:
        yield folder / entry.uri
        return
    (work / FETCHED).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=work / FETCHED) as here:
        path = Path(here) / PurePosixPath(entry.place).name
        try:
            open_bucket(_root_of(entry), greet=False).download_file(object_name(entry), path, entry.sha256)
        except DataError as fault:
            raise DataError(
                f"{fault}: restore it from a copy, or remove it if it is there and "
                f"`dvc repro --force {'embed_captions' if entry.is_vectors else 'download'}` makes it again"
            ) from None
        yield path


def object_name(entry: Entry) -> str:
    """Return a file's name below a data root; it carries the hash, so that no other content ever has it."""
    if entry.is_vectors:
        name = entry.place.removesuffix(VECTORS_SUFFIX).replace("/", ".")
        return f"{EMBEDDINGS}/{name}-{entry.sha256}{VECTORS_SUFFIX}"
    return f"{SHARDS}/{entry.name}-{entry.sha256}{SHARD_SUFFIX}"


def _placed(entry: Entry, below: str) -> Entry:
    """Return the entry of a piece's file as the artifact has it."""
    return entry if entry.is_remote or not below else replace(entry, uri=f"{below}/{entry.uri}")


def _root_of(entry: Entry) -> str:
    return entry.uri.rsplit("/", 2)[0]
