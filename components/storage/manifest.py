"""Manifest of a folder: its files with size and sha256, written last and verified by readers.

A file may be in a bucket instead: its entry has the address, and `storage.bulk` verifies the file on reading.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

from components.errors import DataError
from components.storage.atomic import content_key, read_json, sha256_of, write_json
from components.storage.hashes import known_sha256
from components.storage.layout import MANIFEST

FORMAT_VERSION = 1
REMOTE = "s3://"
RESTORE = (
    "`dvc checkout --force` brings the last good files back, `dvc repro --force <stage>` makes them again"
)
SHARD_SUFFIX, VECTORS_SUFFIX = ".tar", ".safetensors"
EMBEDDINGS = "embeddings"  # folder in a bucket; its object `tuned.dense.00000` is the file tuned/dense/00000


@dataclass(frozen=True)
class Entry:
    """One file of a manifest; `rows` is set if the file holds rows.

    Attributes:
        uri: `shards/00000.tar` below the folder, or `s3://bucket/prefix/shards/00000-<sha256>.tar`.
    """

    uri: str
    bytes: int
    sha256: str
    rows: int | None

    @property
    def is_remote(self) -> bool:
        """Whether the file is in a bucket."""
        return self.uri.startswith(REMOTE)

    @property
    def path(self) -> str:
        """The path that the file has, or would have if it were local, below the folder."""
        if not self.is_remote:
            return self.uri
        path = PurePosixPath(self.uri.removeprefix(REMOTE))
        stem = path.stem.removesuffix(f"-{self.sha256}")
        if path.parent.name == EMBEDDINGS:
            return f"{stem.replace('.', '/')}{path.suffix}"
        return f"{path.parent.name}/{stem}{path.suffix}"

    @property
    def is_shard(self) -> bool:
        """Whether the file is a tar of image-caption pairs."""
        return self.path.endswith(SHARD_SUFFIX)

    @property
    def is_vectors(self) -> bool:
        """Whether the file holds embeddings."""
        return self.path.endswith(VECTORS_SUFFIX)

    @property
    def name(self) -> str:
        """The file name without the suffix: `00000`."""
        return PurePosixPath(self.path).stem


def write_manifest(folder: Path, rows: dict[str, int] | None = None, known: Iterable[Entry] = ()) -> None:
    """List every file below a folder.

    Args:
        folder: The folder.
        rows: Row counts of some files, by `Entry.path`.
        known: Entries of files that are in a bucket, or are local and already verified.
    """
    paths = dict(_files(folder))
    by_path = {entry.path: entry for entry in known if entry.is_remote or entry.uri in paths}
    for name, path in paths.items():
        if name not in by_path or by_path[name].bytes != path.stat().st_size:
            by_path[name] = Entry(name, path.stat().st_size, sha256_of(path), None)
    entries = sorted(by_path.values(), key=lambda entry: PurePosixPath(entry.path))
    files = [asdict(replace(entry, rows=(rows or {}).get(entry.path, entry.rows))) for entry in entries]
    write_json(folder / MANIFEST, {"format_version": FORMAT_VERSION, "files": files})


def read_manifest(folder: Path, below: str = "") -> list[Entry]:
    """Read a manifest and verify every local file it lists whose path starts with `below`.

    `storage.bulk` verifies remote files when they are read.

    Raises:
        DataError: the folder has no manifest, a file is missing or not listed, or a file differs.
    """
    entries = [entry for entry in listed(folder) if entry.path.startswith(below)]
    local = [entry for entry in entries if not entry.is_remote]
    present = {name for name, _ in _files(folder) if name.startswith(below)}
    names = {entry.uri for entry in local}
    if present != names:
        odd = sorted(present ^ names)[0]
        raise DataError(
            f"{folder}: manifest says {len(names)} files, found {len(present)} "
            f"(first difference {odd}); {RESTORE}"
        )
    for entry in local:
        verify(folder, entry)
    return entries


def listed(folder: Path) -> list[Entry]:
    """Return the entries of a manifest without verifying the files.

    Raises:
        DataError: the folder has no manifest, or the manifest has another format.
    """
    tree = read_json(folder / MANIFEST)
    if tree.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{folder / MANIFEST} has format {tree.get('format_version')}; expected {FORMAT_VERSION}"
        )
    return [Entry(**entry) for entry in tree["files"]]


def verify(folder: Path, entry: Entry) -> None:
    """Verify a local file against its manifest entry.

    Raises:
        DataError: the file differs.
    """
    path = folder / entry.uri
    if path.stat().st_size != entry.bytes or known_sha256(path) != entry.sha256:
        raise DataError(f"{path} is damaged: it is not the file its manifest lists; {RESTORE}")


def folder_key(folder: Path, below: str = "") -> str:
    """Verify a folder by its manifest, and return one hash of its content."""
    return content_key([[entry.path, entry.sha256] for entry in read_manifest(folder, below)])


def _files(folder: Path) -> list[tuple[str, Path]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return [(path.relative_to(folder).as_posix(), path) for path in paths]
