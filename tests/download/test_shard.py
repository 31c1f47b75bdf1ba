"""Origins of rows, and pictures that are copied from shards of an earlier version."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.download import matching
from components.download.matching import origin_of
from components.sources.rows import Image, ImageFile, ImageMember, ImageUrl, Row
from components.storage.side_tables import Caption
from tests.ml.vision.test_pictures import FILES

RENEWED = {
    "grey of 16 bits", "dark grey of 16 bits", "one clear grey of 16 bits", "one clear grey of 4 bits",
    "one clear grey of 2 bits", "one clear colour of 16 bits",
}  # fmt: skip
MAX_BYTES = 1_000_000


def origin(image: Image, max_bytes: int = MAX_BYTES) -> str:
    caption = Caption("a", "train", "alt", "en", 0, "a cat", "source")
    return origin_of(Row("a", "train", "s", [caption], {}, image), "code", max_bytes)


@pytest.mark.parametrize("name", [*FILES, "url"])
def test_only_files_that_are_prepared_in_a_newer_way_have_a_new_origin(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: list[Image] = [ImageUrl("http://example.org/a.png")]
    if name in FILES:
        (tmp_path / "a.png").write_bytes(FILES[name][0])
        member = ImageMember(tmp_path / "a.png", "a.tar/a.png", 0, len(FILES[name][0]))
        images = [ImageFile(tmp_path / "a.png", "a.png"), member]
    origins = [origin(image) for image in images]
    assert len(set(origins)) == 1  # a file and a member of equal bytes are the same image
    monkeypatch.setattr(matching, "preparation_of", lambda _: [])
    before = [origin(image) for image in images]
    for now, earlier in zip(origins, before, strict=True):
        assert (now != earlier) == (name in RENEWED)


def test_the_origin_of_a_file_is_its_bytes_wherever_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    first = origin(ImageFile(path, "a.jpg"))
    assert origin(ImageFile(path, "other/name.jpg")) == first
    path.write_bytes(b"two")
    assert origin(ImageFile(path, "a.jpg")) != first


def test_a_file_that_is_absent_or_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    assert origin(ImageFile(path, "a.jpg")) == "unread:a"
    path.write_bytes(b"four")
    assert origin(ImageFile(path, "a.jpg"), max_bytes=3) == "unread:a"
    assert origin(ImageMember(path, "a.tar/a.jpg", 0, 4), max_bytes=3) == "unread:a"


def test_no_origin_holds_a_password() -> None:
    assert "secret" not in origin(ImageUrl("http://user:secret@example.org/a.jpg"))
