"""Atomic writes of files and folders: write to a temporary name, flush to disk, rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.errors import DataError

CHUNK_BYTES = 1 << 20


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; it becomes `path` if the block succeeds, and is removed if it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        yield part
        _flush(part)
        part.replace(path)
        _flush(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file."""
    with new_file(path) as part:
        part.write_bytes(data)


def write_json(path: Path, tree: Any) -> None:  # noqa: ANN401 - whatever JSON holds
    """Write sorted, indented JSON.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot express.
    """
    text = json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def read_json(path: Path) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Read JSON.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} not found; run the stage that makes it (`dvc repro`)") from None
    except ValueError as error:
        raise DataError(
            f"{path} is damaged ({error}); `dvc checkout` brings the last good one back"
        ) from None


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to build in; it replaces `path` if the block succeeds.

    The folder is beside `path`. `path` is absent only between the two renames at the end.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    old = path.with_name(f".{path.name}.old")
    for leftover in (part, old):
        remove(leftover)
    part.mkdir()
    try:
        yield part
    except BaseException:
        remove(part)  # on a full disk, its space is needed to report the error
        raise
    replace_folder(part, path)


def replace_folder(part: Path, path: Path) -> None:
    """Replace the folder `path`, if there is one, by a finished folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.with_name(f".{path.name}.old")
    remove(old)
    if path.exists() or path.is_symlink():
        path.replace(old)
    part.replace(path)
    _flush(path.parent)
    remove(old)


def remove(path: Path) -> None:
    """Remove a file, link or folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a finished file to a second path; copy it if the file system cannot link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with new_file(target) as part:
            shutil.copyfile(source, part)


def reserve(path: Path) -> None:
    """Allocate the disk space of a sparse file now: a write to mapped memory on a full disk is a SIGBUS.

    Raises:
        OSError: the disk is full.
    """
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def content_key(tree: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    """Return the sha256 of a tree of plain values: the cache key of a result that depends only on them."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
