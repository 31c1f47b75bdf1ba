"""A tar is whole, plain and of files only, or it is refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from pathlib import Path
from typing import Any

import pytest

from components.errors import DataError
from components.storage.tar_index import tar_index

LONG = "deep/" * 60 + "näme.jpg"


def tar(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT, **fields: Any) -> Path:
    """Write a tar; `fields` are those of every member."""
    with tarfile.open(path, "w", format=form) as file:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            file.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return path


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_lie_where_the_index_says(tmp_path: Path, form: int) -> None:
    members = [("./a/1.jpg", b"one"), ("2.txt", b""), ("3.json", b"x" * 512), ("4.cls", b"y" * 1025)]
    if form != tarfile.USTAR_FORMAT:
        members.append((LONG, b"long"))
    path = tar(tmp_path / "one.tar", members, form)
    index = tar_index(path)
    assert [member.name for member in index] == [name.removeprefix("./") for name, _ in members]
    data = path.read_bytes()
    for member, (_, content) in zip(index, members, strict=True):
        assert data[member.offset : member.offset + member.size] == content


def test_folders_and_notes_to_the_whole_tar_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "one.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "ours"}) as file:
        folder = tarfile.TarInfo("./")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
        file.addfile(tarfile.TarInfo("./1.jpg"))
    assert [member.name for member in tar_index(path)] == ["1.jpg"]


def test_every_cut_is_seen(tmp_path: Path) -> None:
    path = tar(tmp_path / "one.tar", [(f"{n}.jpg", b"z" * (300 * n)) for n in range(6)] + [(LONG, b"long")])
    whole = path.read_bytes()
    end = max(member.offset + member.size for member in tar_index(path)) // 512 * 512 + 512
    for cut in {*range(0, len(whole), 512), *range(1, len(whole), 97)}:
        path.write_bytes(whole[:cut])
        if cut < end + 1024:
            with pytest.raises(DataError, match="no whole tar"):
                tar_index(path)
        else:
            assert len(tar_index(path)) == 7  # only padding is missing


def test_what_follows_the_end_is_not_lost_in_silence(tmp_path: Path) -> None:
    one, two = (tar(tmp_path / name, [(f"{name}.jpg", b"x")]).read_bytes() for name in ("a", "b"))
    path = tmp_path / "both.tar"
    path.write_bytes(one + two)
    with pytest.raises(DataError, match="bytes follow its end mark"):
        tar_index(path)


@pytest.mark.parametrize("name", ["../../x.jpg", "a/../../x.jpg", "/etc/x.jpg", "a/..", "."])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="leads out of its folder"):
        tar_index(tar(tmp_path / "one.tar", [("1.jpg", b"x"), (name, b"y")]))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
             tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE]
)  # fmt: skip
def test_other_things_than_files_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = tar(tmp_path / "one.tar", [("1.jpg", b"")], type=kind, linkname="/etc/passwd")
    with pytest.raises(DataError, match="is of type .* neither file nor folder"):
        tar_index(path)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"GNU.sparse.major": "1", "GNU.sparse.name": "x"}, "announces a sparse file"),
        ({"path": "../x.jpg"}, "leads out of its folder"),
        ({"path": "a\0b"}, "leads out of its folder"),
        ({"size": "99999999999"}, "is longer than the tar"),
        ({"comment": "x" * 2_000_000}, "bytes of names stand before a header"),
    ],
)
def test_what_stands_before_a_header_is_not_trusted(
    tmp_path: Path, headers: dict[str, str], message: str
) -> None:
    path = tar(tmp_path / "one.tar", [("1.jpg", b"x")], pax_headers=headers)
    with pytest.raises(DataError, match=message):
        tar_index(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no whole tar of plain files: it has no bytes, before byte 0, after 0 files"),
        (b"\0" * 512, "it ends within its end mark, before byte 512, after 0 files"),
        (b"\0" * 20480, "it is 20480 bytes of zeros, more than an empty tar has"),
        (b"nothing" * 1000, "invalid header, before byte 512, after 0 files"),
        (
            b"<html>gone</html>" * 100,
            "is an HTML page inside; expected a plain tar; fetch the file from its own",
        ),
        (b"\xef\xbb\xbf\n<!DOCTYPE HTML>", "is an HTML page inside"),
        (b"<?xml version='1.0'?><Error>", "is an XML document, perhaps an error message"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "is a Git LFS pointer inside; .* `git lfs pull`",
        ),
        (b"PK\x03\x04rest", "is a zip archive inside; expected a plain tar; unpack it with unzip"),
        (gzip.compress(bytes(5000)), "is gzip inside; expected a plain tar; it is compressed: .* gunzip"),
        (bz2.compress(bytes(5000)), "is bzip2 inside; .* it is compressed: unpack it with bunzip2"),
        (lzma.compress(bytes(5000)), "is xz inside; .* it is compressed: unpack it with unxz"),
        (b"\x28\xb5\x2f\xfd" + b"\1" * 2000, "is zstd inside; .* it is compressed: unpack it with unzstd"),
    ],
)
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "one.tar"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        tar_index(path)


@pytest.mark.parametrize("size", [1024, 10240])
def test_a_tar_without_members_is_empty_and_whole(tmp_path: Path, size: int) -> None:
    path = tmp_path / "one.tar"
    path.write_bytes(bytes(size))
    assert tar_index(path) == []
    tarfile.open(path, "w").close()  # as webdataset's ShardWriter closes its last one
    assert tar_index(path) == []


def test_a_name_that_begins_as_another_kind_of_file_is_a_name(tmp_path: Path) -> None:
    names = ["BZh.jpg", "PAR1.jpg", "<html>.jpg"]
    for name in names:
        assert [member.name for member in tar_index(tar(tmp_path / "one.tar", [(name, b"x")]))] == [name]


def test_no_flipped_bit_of_a_header_is_believed(tmp_path: Path) -> None:
    path = tar(tmp_path / "one.tar", [("1.jpg", b"x" * 512), ("2.jpg", b"y" * 512)], tarfile.USTAR_FORMAT)
    whole = path.read_bytes()
    before = tar_index(path)
    for at in [*range(512), *range(1024, 1536), *range(2048, 3072)]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            assert tar_index(path) == before, at  # in the checksum's own padding
        except DataError:
            continue
        assert 148 <= at % 1024 < 156, at
