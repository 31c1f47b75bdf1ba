"""Cache of a stage's finished results, by content key and outside DVC's outputs: a rerun builds the rest."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from components.errors import DataError
from components.storage.atomic import link_or_copy, new_folder, remove
from components.storage.manifest import Entry, listed, read_manifest, write_manifest


def get_or_build(store: Path, key: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of a cached result; build it with `make(folder)` unless an intact one exists.

    Args:
        store: Folder of all cached results of one kind.
        key: Hash of the inputs and params that decide the result (`content_key`).
        make: Fills an empty folder.
    """
    folder = store / key
    if is_intact(folder):
        return folder
    remove(folder)
    with new_folder(folder) as part:
        make(part)
        write_manifest(part)
    return folder


def is_intact(folder: Path) -> bool:
    """Return whether a cached result exists and matches its manifest."""
    try:
        return folder.is_dir() and bool(read_manifest(folder))
    except DataError:
        return False


def remove_unfinished(folder: Path) -> None:
    """Remove unfinished folders and files of killed processes, at any depth; no process may write there."""
    for leftover in sorted(folder.rglob(".*.part")):
        remove(leftover)


def put_files(
    piece_folder: Path,
    folder: Path,
    below: str = "",
    *,
    leave: Collection[str] = (),
) -> list[Entry]:
    """Link or copy a cached result's files into an output that is being built; return their new entries.

    Args:
        piece_folder: Folder of a cached result that `get_or_build` returned in this run, and so verified.
        folder: The output folder.
        below: Subfolder of the output that the files go to.
        leave: Files that are left out.
    """
    entries = []
    for entry in listed(piece_folder):
        if entry.is_remote:
            entries.append(entry)
        elif entry.uri not in leave:
            uri = f"{below}/{entry.uri}" if below else entry.uri
            link_or_copy(piece_folder / entry.uri, folder / uri)
            entries.append(replace(entry, uri=uri))
    return entries
