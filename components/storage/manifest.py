"""The list of a folder's files with size and sha256, written last; readers refuse what does not match."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.faults import DataFault
from components.storage.atomic import content_key, read_json, sha256_of, write_json
from components.storage.layout import MANIFEST

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """One file: its path below the folder, and rows where it holds rows."""

    uri: str
    bytes: int
    sha256: str
    rows: int | None


def write_manifest(folder: Path, rows: dict[str, int] | None = None) -> None:
    """List every file below a folder; `rows` gives the row counts of some, by relative path."""
    entries = [
        {
            "uri": name,
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
            "rows": (rows or {}).get(name),
        }
        for name, path in _files(folder)
    ]
    write_json(folder / MANIFEST, {"format_version": FORMAT_VERSION, "files": entries})


def read_manifest(folder: Path, below: str = "") -> list[Entry]:
    """Read a manifest and verify every file it lists whose path starts with `below`.

    Raises:
        DataFault: the folder has no manifest, a file is missing, one too many, or differs from it.
    """
    tree = read_json(folder / MANIFEST)
    if tree.get("format_version") != FORMAT_VERSION:
        raise DataFault(
            f"{folder / MANIFEST} has format {tree.get('format_version')}; expected {FORMAT_VERSION}"
        )
    entries = [Entry(**entry) for entry in tree["files"] if entry["uri"].startswith(below)]
    found = {name for name, _ in _files(folder) if name.startswith(below)}
    listed = {entry.uri for entry in entries}
    if found != listed:
        odd = sorted(found ^ listed)[0]
        raise DataFault(
            f"{folder}: manifest says {len(listed)} files, found {len(found)} (first odd one {odd}); {_MEND}"
        )
    for entry in entries:
        path = folder / entry.uri
        if path.stat().st_size != entry.bytes or sha256_of(path) != entry.sha256:
            raise DataFault(f"{path} is damaged: it is not the file its manifest lists; {_MEND}")
    return entries


def folder_key(folder: Path, below: str = "") -> str:
    """Return one hash for the content of a folder, from its manifest; verifies it."""
    return content_key([[entry.uri, entry.sha256] for entry in read_manifest(folder, below)])


_MEND = "`dvc checkout --force` brings the last good files back, `dvc repro --force <stage>` makes them again"


def _files(folder: Path) -> list[tuple[str, Path]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return [(path.relative_to(folder).as_posix(), path) for path in paths]
