"""Cache the sha256 of files, so that a machine reads each file only once to verify it.

A file is identified by device and inode, and counts as unchanged while its size and modification time stay
the same. A file that was modified less than two seconds before it was read is not cached: another write
within the file system's clock tick would look the same (git's index calls this "racy git"). `llm2clip verify`
reads every file and finds changes that keep the modification time, and bits lost by a disk.
"""

from __future__ import annotations

import os
import re
import time
from functools import cache
from pathlib import Path

from components.storage.atomic import new_file, sha256_of

VARIABLE = "_LLM2CLIP_HASHES"  # path of the cache file, for all processes of a run
SETTLED_NANOSECONDS = 2_000_000_000
LINE = re.compile(r"(\d+):(\d+) (\d+) (\d+) ([0-9a-f]{64})")
SPARE_LINES = 10_000  # lines of deleted or changed files before the cache file is rewritten

Known = dict[tuple[int, int], tuple[int, int, str]]  # (device, inode): (bytes, nanoseconds, sha256)


def remember_hashes(path: Path) -> None:
    """Set the cache file in the work store, for this process and the processes it starts.

    Args:
        path: A text file with one line per hashed file; only appended to, so that many processes can write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    os.environ[VARIABLE] = str(path.absolute())
    _known.cache_clear()
    if path.is_file() and path.read_bytes().count(b"\n") > len(_known(str(path.absolute()))) + SPARE_LINES:
        with new_file(path) as part:
            part.write_text("".join(map(_line, _known(str(path.absolute())).items())), "ascii")


def known_sha256(path: Path, *, read: bool = False) -> str:
    """Return the sha256 of a file in hex, from the cache if the file is unchanged.

    Args:
        path: The file's path.
        read: Read the file in any case, and update the cache.

    Raises:
        OSError: the file cannot be read.
    """
    cache_file = os.environ.get(VARIABLE)
    if not cache_file:
        return sha256_of(path)
    stat, now = path.stat(), time.time_ns()
    identity, version = (stat.st_dev, stat.st_ino), (stat.st_size, stat.st_mtime_ns)
    known = _known(cache_file)
    entry = known.get(identity)
    if entry and entry[:2] == version and not read:
        return entry[2]
    digest = sha256_of(path)
    if now - stat.st_mtime_ns >= SETTLED_NANOSECONDS:
        known[identity] = (*version, digest)
        with Path(cache_file).open("a", encoding="ascii") as file:
            file.write(_line((identity, known[identity])))
    return digest


@cache
def _known(cache_file: str) -> Known:
    """Return the cached hashes; a line cut by a kill is ignored."""
    try:
        lines = Path(cache_file).read_text("ascii", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    known: Known = {}
    for match in filter(None, map(LINE.fullmatch, lines)):
        device, inode, size, modified = map(int, match.groups()[:4])
        known[device, inode] = (size, modified, match[5])
    return known


def _line(item: tuple[tuple[int, int], tuple[int, int, str]]) -> str:
    (device, inode), (size, modified, digest) = item
    return f"{device}:{inode} {size} {modified} {digest}\n"
