"""Where results of pictures are: found by the whole hash, never in a damaged result."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from components.storage.known_images import KnownImages, write_pictures
from components.storage.manifest import Entry, write_manifest
from components.storage.shards import Pair
from tests.pairs import put_in_use

NEW = Entry("shards/00007.tar", 1, "f" * 64, 3)


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two results, of three pictures and of one."""
    for name, pictures in (("aa", ["a", "b", "c"]), ("bb", ["d"])):
        folder = tmp_path / "store" / name
        folder.mkdir(parents=True)
        write_pictures(folder, [f"{name}{one}" for one in pictures], [digest(one) for one in pictures])
        write_manifest(folder)
    pairs = [Pair(f"new{one}", one.encode(), "", {"split": "train"}) for one in ("c", "d", "e")]
    put_in_use(tmp_path / NEW.uri, pairs)
    return tmp_path / "store"


def found(store: Path, *asked: str) -> dict[str, dict[str, int]]:
    known = KnownImages(store, store.parent, [NEW])
    return {folder.name: lines for folder, lines in known.find(asked).items()}


def test_pictures_of_new_shards_are_found_by_folder_and_line(store: Path) -> None:
    c, d, e = (digest(one) for one in "cde")
    assert found(store, c, d, e) == {"aa": {c: 2}, "bb": {d: 0}}
    assert found(store, digest("a")) == {}  # in no new shard: nobody asks for it
    assert found(store) == {}
    assert KnownImages(store, store.parent, []).find([c]) == {}
    assert KnownImages(store / "none", store.parent, [NEW]).find([c]) == {}


def test_a_hash_that_only_begins_alike_is_another_picture(store: Path) -> None:
    c = digest("c")
    assert found(store, c[:16] + "0" * 48) == {"aa": {}}


def test_a_damaged_result_is_not_used(store: Path) -> None:
    path = store / "aa" / "images.parquet"
    (store / "aa" / "manifest.json").unlink()
    assert path.is_file()
    assert found(store, digest("c"), digest("d")) == {"bb": {digest("d"): 0}}
