"""Finished results of a stage, kept by content outside DVC's outputs: a rerun makes only the rest."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from components.errors import DataError
from components.storage.atomic import link_or_copy, new_folder, remove
from components.storage.manifest import Entry, listed, read_manifest, write_manifest


def get_or_build(store: Path, key: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of a finished piece, made by `make(folder)` unless an intact one is there.

    Args:
        store: Folder of all pieces of one kind.
        key: Hash of the inputs and of the params that decide the piece (`content_key`).
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
    """Say whether a finished piece is there, as its manifest has it."""
    try:
        return folder.is_dir() and bool(read_manifest(folder))
    except DataError:
        return False


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left half made, at any depth; nothing may be under way there."""
    for leftover in sorted(folder.rglob(".*.part")):
        remove(leftover)


def put_files(
    piece_folder: Path,
    folder: Path,
    below: str = "",
    *,
    leave: Collection[str] = (),
    beside: Collection[str] = (),
) -> list[Entry]:
    """Put a piece's files into the output that is being built; return their entries there.

    Args:
        piece_folder: Of a piece that `get_or_build` gave in this run, and so verified.
        folder: The output.
        below: The folder in it that they go to.
        leave: Files that stay with the piece.
        beside: Folders of the piece that go into the output itself.
    """
    entries = []
    for entry in listed(piece_folder):
        if entry.is_remote:
            entries.append(entry)
        elif entry.uri not in leave:
            is_beside = entry.uri.partition("/")[0] in beside
            uri = entry.uri if is_beside or not below else f"{below}/{entry.uri}"
            link_or_copy(piece_folder / entry.uri, folder / uri)
            entries.append(replace(entry, uri=uri))
    return entries
