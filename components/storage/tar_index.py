"""Index a tar's members without trusting the tar.

Readers of tars take a cut file for a short one, follow links and names out of the folder, and stop in
silence at a damaged header. Here a tar is whole, plain and of files only, or it is refused.
"""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from components.errors import DataError
from components.storage.file_kinds import HEAD_BYTES, FileKind, file_kind

BLOCK = tarfile.BLOCKSIZE
MAX_LONG_NAME_BYTES = 1 << 20  # what may stand between a header and its file
PAX_RECORD = re.compile(rb"([1-9]\d{0,8}) ([^=\n]+)=")
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Member:
    """A file of a tar: its bytes begin at `offset`."""

    name: str
    offset: int
    size: int

    def read(self, file: IO[bytes]) -> bytes:
        """Return its bytes from the tar, which is open."""
        file.seek(self.offset)
        return file.read(self.size)


class _Damaged(Exception):
    """The tar is not as it should be; the text says how."""


def tar_index(path: Path) -> list[Member]:
    """Return the files of a tar in their order; folders are passed over. One without members has none.

    Raises:
        DataError: it is cut, also between two members, is damaged, is no tar but another kind of file, has
            bytes behind its end, or holds a link, a device, a sparse file, or a name that leads out of its
            folder.
    """
    members: list[Member] = []
    tar_bytes = path.stat().st_size
    with path.open("rb") as file:
        try:
            while member := _next(file, tar_bytes):
                if member.name:
                    members.append(member)
                file.seek(member.offset + _whole_blocks(member.size))
            if file.tell() == BLOCK and tar_bytes > tarfile.RECORDSIZE:
                raise _Damaged(f"it is {tar_bytes} bytes of zeros, more than an empty tar has")
            _check_end(file)
        except (_Damaged, tarfile.HeaderError) as error:
            offset = file.tell()
            if not members and (kind := _other_kind(file)):
                raise DataError(
                    f"{path} is {kind.name} inside; expected a plain tar; {kind.advice}"
                ) from None
            raise DataError(
                f"{path} is no whole tar of plain files: {error}, before byte {offset}, after "
                f"{len(members)} files; fetch or pack it again"
            ) from None
    return members


def _other_kind(file: IO[bytes]) -> FileKind | None:
    """Return what a file is that is no tar, if its first bytes tell."""
    file.seek(0)
    return file_kind(file.read(HEAD_BYTES))


def _next(file: IO[bytes], tar_bytes: int) -> Member | None:
    """Return the next member, one without a name for a folder, or None where the end is marked."""
    told: dict[bytes, bytes] = {}  # what stands before the header and overrides it
    while True:
        header = file.read(BLOCK)
        if len(header) < BLOCK:
            raise _Damaged("it ends without an end mark" if tar_bytes else "it has no bytes")
        if not header.strip(b"\0"):
            return None
        found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        size = int(told[b"size"]) if told.get(b"size", b"").isdigit() else found.size
        if size < 0 or file.tell() + size > tar_bytes:
            raise _Damaged(f"{found.name!a} is longer than the tar")
        if found.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
            name = told[b"path"].decode("utf-8", "surrogateescape") if b"path" in told else found.name
            return Member(_safe(name), file.tell(), size)
        if found.type == tarfile.DIRTYPE:
            return Member("", file.tell(), size)
        told |= _told(file, found)


def _told(file: IO[bytes], found: tarfile.TarInfo) -> dict[bytes, bytes]:
    """Read what stands before a header: a long name of GNU's kind, or records of pax's kind."""
    if found.type not in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE):
        raise _Damaged(f"{found.name!a} is of type {found.type!a}, neither file nor folder")
    if found.size > MAX_LONG_NAME_BYTES:
        raise _Damaged(f"{found.size} bytes of names stand before a header")
    body = file.read(_whole_blocks(found.size))[: found.size]
    if found.type == tarfile.GNUTYPE_LONGNAME:
        return {b"path": body.rstrip(b"\0")}
    records = _pax_records(body)
    if any(key.startswith(b"GNU.sparse") for key in records):
        raise _Damaged(f"{found.name!a} announces a sparse file")
    if found.type == tarfile.XGLTYPE and records.keys() & {b"path", b"size"}:
        raise _Damaged("one name or size is given to all files")
    return records


def _pax_records(body: bytes) -> dict[bytes, bytes]:
    records = {}
    at = 0
    while at < len(body):
        record = PAX_RECORD.match(body, at)
        end = at + int(record[1]) if record else 0
        if not record or end > len(body) or body[end - 1] != ord("\n") or end <= record.end():
            raise _Damaged("a pax header is broken")
        records[record[2]] = body[record.end() : end - 1]
        at = end
    return records


def _safe(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name or not parts:
        raise _Damaged(f"the name {name[:100]!a} leads out of its folder")
    return "/".join(parts)


def _check_end(file: IO[bytes]) -> None:
    """Check that a second block of zeros follows the first, and nothing but zeros to the end."""
    rest = file.read(BLOCK)
    if len(rest) < BLOCK:
        raise _Damaged("it ends within its end mark")
    while rest:
        if rest.strip(b"\0"):
            raise _Damaged("bytes follow its end mark")
        rest = file.read(CHUNK_BYTES)


def _whole_blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
