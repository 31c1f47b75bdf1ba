"""Index the members of an untrusted tar.

Common tar readers take a cut file for a short one, follow links and names out of the folder, and stop
silently at a damaged header. This reader refuses a tar unless it is complete, uncompressed and holds only
plain files.
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
MAX_LONG_NAME_BYTES = 1 << 20  # longest extension before a header
PAX_RECORD = re.compile(rb"([1-9]\d{0,8}) ([^=\n]+)=")
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Member:
    """A file in a tar: `size` bytes from `offset` on."""

    name: str
    offset: int
    size: int

    def read(self, file: IO[bytes]) -> bytes:
        """Return the file's bytes from the open tar."""
        file.seek(self.offset)
        return file.read(self.size)


class _Damaged(Exception):
    """The tar is refused; the text says why."""


def tar_index(path: Path) -> list[Member]:
    """Return the files of a tar in order, without its folders; a tar without members gives an empty list.

    Raises:
        DataError: the tar is cut (also between two members), damaged, or another kind of file; it has bytes
            after its end; or it holds a link, a device, a sparse file, or a name that leads out of its
            folder.
    """
    members: list[Member] = []
    tar_bytes = path.stat().st_size
    with path.open("rb") as file:
        try:
            while member := _next_member(file, tar_bytes):
                if member.name:
                    members.append(member)
                file.seek(member.offset + _whole_blocks(member.size))
            if file.tell() == BLOCK and tar_bytes > tarfile.RECORDSIZE:
                raise _Damaged(f"it is {tar_bytes} bytes of zeros, more than an empty tar has")
            _check_end(file)
        except (_Damaged, tarfile.HeaderError) as error:
            offset = file.tell()
            if not members and (kind := _detected_kind(file)):
                raise DataError(
                    f"{path} is {kind.name} inside; expected a plain tar; {kind.advice}"
                ) from None
            raise DataError(
                f"{path} is no whole tar of plain files: {error}, before byte {offset}, after "
                f"{len(members)} files; fetch or pack it again"
            ) from None
    return members


def _detected_kind(file: IO[bytes]) -> FileKind | None:
    """Return the kind of a file that is no tar, if its first bytes show it."""
    file.seek(0)
    return file_kind(file.read(HEAD_BYTES))


def _next_member(file: IO[bytes], tar_bytes: int) -> Member | None:
    """Return the next member, or None at the end mark; a folder is a member without a name."""
    overrides: dict[bytes, bytes] = {}  # values that override the next header
    while True:
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            raise _Damaged("it ends without an end mark" if tar_bytes else "it has no bytes")
        if not block.strip(b"\0"):
            return None
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        size = int(overrides[b"size"]) if overrides.get(b"size", b"").isdigit() else header.size
        if size < 0 or file.tell() + size > tar_bytes:
            raise _Damaged(f"{header.name!a} is longer than the tar")
        if header.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
            name = (
                overrides[b"path"].decode("utf-8", "surrogateescape") if b"path" in overrides else header.name
            )
            return Member(_checked_name(name), file.tell(), size)
        if header.type == tarfile.DIRTYPE:
            return Member("", file.tell(), size)
        overrides |= _read_overrides(file, header)


def _read_overrides(file: IO[bytes], header: tarfile.TarInfo) -> dict[bytes, bytes]:
    """Read the values that override the next header: a GNU long name, or pax records."""
    if header.type not in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE):
        raise _Damaged(f"{header.name!a} is of type {header.type!a}, neither file nor folder")
    if header.size > MAX_LONG_NAME_BYTES:
        raise _Damaged(f"{header.size} bytes of names stand before a header")
    body = file.read(_whole_blocks(header.size))[: header.size]
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {b"path": body.rstrip(b"\0")}
    records = _pax_records(body)
    if any(key.startswith(b"GNU.sparse") for key in records):
        raise _Damaged(f"{header.name!a} announces a sparse file")
    if header.type == tarfile.XGLTYPE and records.keys() & {b"path", b"size"}:
        raise _Damaged("one name or size is given to all files")
    return records


def _pax_records(body: bytes) -> dict[bytes, bytes]:
    records = {}
    offset = 0
    while offset < len(body):
        record = PAX_RECORD.match(body, offset)
        end = offset + int(record[1]) if record else 0
        if not record or end > len(body) or body[end - 1] != ord("\n") or end <= record.end():
            raise _Damaged("a pax header is broken")
        records[record[2]] = body[record.end() : end - 1]
        offset = end
    return records


def _checked_name(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name or not parts:
        raise _Damaged(f"the name {name[:100]!a} leads out of its folder")
    return "/".join(parts)


def _check_end(file: IO[bytes]) -> None:
    """Check that a second block of zeros follows the first, and that only zeros follow to the end."""
    rest = file.read(BLOCK)
    if len(rest) < BLOCK:
        raise _Damaged("it ends within its end mark")
    while rest:
        if rest.strip(b"\0"):
            raise _Damaged("bytes follow its end mark")
        rest = file.read(CHUNK_BYTES)


def _whole_blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
