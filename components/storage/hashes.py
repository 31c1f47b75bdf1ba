"""Remember the sha256 of files that were read, so that each is read once on a machine to be verified.

A file is known by device and inode, and is the same as long as its size and its time of modification are.
One that was modified less than two seconds before it was read is not remembered: another write within the
file system's clock tick would look the same (as git's index has it, "racy git"). What changes bytes and sets
the time back, or a disk that loses bits, is found by `llm2clip verify`, which reads everything.
"""

from __future__ import annotations

import os
import re
import time
from functools import cache
from pathlib import Path

from components.storage.atomic import new_file, sha256_of

VARIABLE = "_LLM2CLIP_HASHES"  # says to all processes of a run where the memory is
SETTLED_NANOSECONDS = 2_000_000_000
LINE = re.compile(r"(\d+):(\d+) (\d+) (\d+) ([0-9a-f]{64})")
SPARE_LINES = 10_000  # of files that are gone or changed, before the memory is written anew

Known = dict[tuple[int, int], tuple[int, int, str]]  # by device and inode: bytes, nanoseconds, sha256


def remember_hashes(path: Path) -> None:
    """Have this process, and those it starts, remember in a file of the work store.

    Args:
        path: Text, a line for a file; only appended to, so that many processes may.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    os.environ[VARIABLE] = str(path.absolute())
    _known.cache_clear()
    if path.is_file() and path.read_bytes().count(b"\n") > len(_known(str(path.absolute()))) + SPARE_LINES:
        with new_file(path) as part:
            part.write_text("".join(map(_line, _known(str(path.absolute())).items())), "ascii")


def known_sha256(path: Path, *, read: bool = False) -> str:
    """Return the sha256 of a file in hex, as it was read before if nothing has touched it since.

    Args:
        path: Of the file.
        read: Read it whatever is remembered, and remember what it is now.

    Raises:
        OSError: it cannot be read.
    """
    memory = os.environ.get(VARIABLE)
    if not memory:
        return sha256_of(path)
    stat, now = path.stat(), time.time_ns()
    identity, version = (stat.st_dev, stat.st_ino), (stat.st_size, stat.st_mtime_ns)
    known = _known(memory)
    found = known.get(identity)
    if found and found[:2] == version and not read:
        return found[2]
    digest = sha256_of(path)
    if now - stat.st_mtime_ns >= SETTLED_NANOSECONDS:
        known[identity] = (*version, digest)
        with Path(memory).open("a", encoding="ascii") as file:
            file.write(_line((identity, known[identity])))
    return digest


@cache
def _known(memory: str) -> Known:
    """Return what is remembered; a line that a kill has cut is none."""
    try:
        lines = Path(memory).read_text("ascii", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    known: Known = {}
    for found in filter(None, map(LINE.fullmatch, lines)):
        device, inode, size, modified = map(int, found.groups()[:4])
        known[device, inode] = (size, modified, found[5])
    return known


def _line(item: tuple[tuple[int, int], tuple[int, int, str]]) -> str:
    (device, inode), (size, modified, digest) = item
    return f"{device}:{inode} {size} {modified} {digest}\n"
