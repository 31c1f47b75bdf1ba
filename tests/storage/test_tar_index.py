"""A tar is whole, plain and of files only, or it is refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from components.faults import DataFault
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
            with pytest.raises(DataFault, match="no whole tar"):
                tar_index(path)
        else:
            assert len(tar_index(path)) == 7  # only padding is missing


def test_what_follows_the_end_is_not_lost_in_silence(tmp_path: Path) -> None:
    one, two = (tar(tmp_path / name, [(f"{name}.jpg", b"x")]).read_bytes() for name in ("a", "b"))
    path = tmp_path / "both.tar"
    path.write_bytes(one + two)
    with pytest.raises(DataFault, match="bytes follow its end mark"):
        tar_index(path)


@pytest.mark.parametrize("name", ["../../x.jpg", "a/../../x.jpg", "/etc/x.jpg", "a/..", "."])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataFault, match="leads out of its folder"):
        tar_index(tar(tmp_path / "one.tar", [("1.jpg", b"x"), (name, b"y")]))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
             tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE]
)  # fmt: skip
def test_other_things_than_files_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = tar(tmp_path / "one.tar", [("1.jpg", b"")], type=kind, linkname="/etc/passwd")
    with pytest.raises(DataFault, match="is of type .* neither file nor folder"):
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
    with pytest.raises(DataFault, match=message):
        tar_index(path)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 512, b"<html>gone</html>" * 100, b"\x1f\x8b" + b"\0" * 2000]
)
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "one.tar"
    path.write_bytes(content)
    with pytest.raises(DataFault, match="after 0 files"):
        tar_index(path)


def test_no_flipped_bit_of_a_header_is_believed(tmp_path: Path) -> None:
    path = tar(tmp_path / "one.tar", [("1.jpg", b"x" * 512), ("2.jpg", b"y" * 512)], tarfile.USTAR_FORMAT)
    whole = path.read_bytes()
    before = tar_index(path)
    for at in [*range(512), *range(1024, 1536), *range(2048, 3072)]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            assert tar_index(path) == before, at  # in the checksum's own padding
        except DataFault:
            continue
        assert 148 <= at % 1024 < 156, at
