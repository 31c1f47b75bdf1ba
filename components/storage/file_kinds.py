"""Detect a file's kind from its first bytes."""

from __future__ import annotations

from dataclasses import dataclass

HEAD_BYTES = 512
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class FileKind:
    """A kind of file, and what to do if another kind was expected."""

    name: str  # fits between "is" and "inside"
    advice: str


GZIP = FileKind("gzip", "it is compressed: unpack it with gunzip")
ZIP = FileKind("a zip archive", "unpack it with unzip")
TEXT = FileKind("text", "rename it, or fetch it again")
PARQUET = FileKind("parquet", "rename it to .parquet")
LFS_POINTER = FileKind("a Git LFS pointer", "fetch the file with `git lfs pull`")
HTML = FileKind(
    "an HTML page",
    "fetch the file from its own address (on Hugging Face the one with /resolve/, not /blob/)",
)
XML = FileKind("an XML document, perhaps an error message of a bucket", "read it, and fetch the file again")

BY_MAGIC = {
    b"\x1f\x8b": GZIP,
    b"\x28\xb5\x2f\xfd": FileKind("zstd", "it is compressed: unpack it with unzstd"),
    b"BZh": FileKind("bzip2", "it is compressed: unpack it with bunzip2"),
    b"\xfd7zXZ\0": FileKind("xz", "it is compressed: unpack it with unxz"),
    b"\x04\x22\x4d\x18": FileKind("lz4", "it is compressed: unpack it with unlz4"),
    b"\x1f\x9d": FileKind("compress", "it is compressed: unpack it with uncompress"),
    b"PK\x03\x04": ZIP,
    b"PK\x05\x06": ZIP,  # an empty one
    b"7z\xbc\xaf\x27\x1c": FileKind("a 7-Zip archive", "unpack it with 7z"),
    b"Rar!\x1a\x07": FileKind("a RAR archive", "unpack it with unrar"),
    b"PAR1": PARQUET,
    b"version https://git-lfs.github.com/": LFS_POINTER,
    b"version https://hawser.github.com/": LFS_POINTER,  # the older name of Git LFS
}
BY_TAG = {b"<!doctype html": HTML, b"<html": HTML, b"<?xml": XML, b"<error>": XML}


def file_kind(head: bytes) -> FileKind | None:
    """Return the kind of file that begins with these bytes, or None if it is unknown.

    Args:
        head: The first `HEAD_BYTES` of the file, or all of a shorter one.
    """
    for magic, kind in BY_MAGIC.items():
        if head.startswith(magic):
            return kind
    text = head.removeprefix(BOM).lstrip().lower()
    return next((kind for tag, kind in BY_TAG.items() if text.startswith(tag)), None)
