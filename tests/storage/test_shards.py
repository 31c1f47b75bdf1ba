from __future__ import annotations

import random
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import webdataset

from components.errors import DataError
from components.storage.manifest import write_manifest
from components.storage.shards import (
    Pair,
    image_table,
    read_pairs,
    read_shard,
    shards_of,
    source_captions,
    write_shard,
)
from components.storage.side_tables import Caption
from tests.pairs import write_pairs
from tests.storage.test_tar_index import tar

PAIRS = [
    Pair(f"key{n:03d}", b"jpeg" * n, f"caption {n} ü\u2028x", {"split": "train", "n": n}) for n in range(20)
]


def test_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        assert write_shard(tmp_path / name, PAIRS) == 20
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert list(read_shard(tmp_path / "a.tar", 20)) == PAIRS


def test_plain_webdataset_reads_it(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", PAIRS)
    samples = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [s["__key__"] for s in samples] == [p.key for p in PAIRS]


def test_a_cut_shard_is_an_error_wherever_it_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, PAIRS)
    good = path.read_bytes()
    end = good.rindex(b"caption 19")
    rng = random.Random(3)  # noqa: S311 - a test's own draws
    for cut in [rng.randrange(end) for _ in range(60)] + list(range(0, end, 4096)):
        path.write_bytes(good[:cut])
        with pytest.raises(DataError):
            list(read_shard(path, 20))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.jpg", "a.json", "a.txt", "a.jpg"], "occurs twice"),
        (["a.jpg", "a.json", "a.txt", "b.jpg", "b.json", "b.txt", "a.png"], "a occurs twice"),
        (["a.jpg", "a.json"], "'txt'"),
        (["../a.jpg", "../a.json", "../a.txt"], "leads out of its folder"),
    ],
)
def test_pairs_that_are_not_whole_and_single_are_refused(
    tmp_path: Path, names: list[str], message: str
) -> None:
    path = tar(tmp_path / "a.tar", [(name, b"{}") for name in names])
    with pytest.raises(DataError, match=rf"a\.tar is damaged after .*{message}.*dvc checkout"):
        list(read_shard(path))


def test_shards_are_listed_from_the_manifest(tmp_path: Path) -> None:
    write_shard(tmp_path / "shards" / "00000.tar", PAIRS)
    write_manifest(tmp_path, {"shards/00000.tar": 20})
    (shard,) = shards_of(tmp_path)
    assert (shard.uri, shard.name, shard.rows) == ("shards/00000.tar", "00000", 20)
    assert list(read_pairs(tmp_path, shard, tmp_path / "work")) == PAIRS
    assert not (tmp_path / "work").exists()


def described(number: int, **caption: Any) -> Pair:
    """A pair as download writes it."""
    of_source = {"column": "alt", "language": "en", "number": 0, "text": "a dog", "writer": "list", **caption}
    labels = {"object": ["dog", "sofa"]} if number else {}
    metadata = {"split": ("train", "test")[number % 2], "labels": labels, "captions": [of_source]}
    return Pair(f"k{number}", b"jpeg" * number, str(of_source["text"]), metadata)


def test_tables_hold_what_the_tar_holds_besides_pixels(tmp_path: Path) -> None:
    pairs = [described(number) for number in range(3)]
    write_pairs(tmp_path / "shards" / "00000.tar", pairs)
    write_manifest(tmp_path)
    (shard,) = shards_of(tmp_path)
    assert source_captions(tmp_path, shard) == [
        Caption(pair.key, pair.metadata["split"], **pair.metadata["captions"][0]) for pair in pairs
    ]
    images = image_table(tmp_path, shard).to_pylist()
    assert [(image["key"], image["split"]) for image in images] == [
        ("k0", "train"), ("k1", "test"), ("k2", "train"),
    ]  # fmt: skip
    assert [image["sha256"] for image in images] == [sha256(pair.jpeg).hexdigest() for pair in pairs]
    assert [dict(image["labels"]) for image in images] == [pair.metadata["labels"] for pair in pairs]
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.parquet"))
    assert names == ["captions/00000.parquet", "images/00000.parquet"]  # not beside the tar, as a ledger is
