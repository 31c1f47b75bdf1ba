from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from components.errors import DataError
from components.storage.atomic import sha256_of
from components.storage.audited_rows import KeptShard
from components.storage.manifest import Entry
from components.storage.pixels import Pixels, decoded
from components.storage.shards import Pair
from tests.pairs import write_pairs


def _shard(folder: Path, name: str, keys: list[str], kept: list[str]) -> KeptShard:
    path = folder / f"{name}.tar"
    write_pairs(path, (Pair(key, key.encode(), "") for key in keys))
    entry = Entry(path.name, path.stat().st_size, sha256_of(path), len(keys))
    return KeptShard(name, entry, pa.table({"key": pa.array(kept, pa.string())}), 0)


def _decode(data: bytes, size: int) -> torch.Tensor:
    if data == b"k9":
        raise ValueError("no readable image")
    return torch.full((3, size, size), int(data[1:]), dtype=torch.uint8)


def _pixels(folder: Path, shards: list[KeptShard]) -> Pixels:
    return decoded(folder, folder / "work", shards, 2, _decode, "c")


def test_rows_come_by_number_across_shards(tmp_path: Path) -> None:
    shards = [
        _shard(tmp_path, "0", ["k2", "k1", "k3"], ["k1", "k2"]),
        _shard(tmp_path, "1", ["k4"], []),
        _shard(tmp_path, "2", ["k6", "k5"], ["k5", "k6"]),
    ]
    pixels = _pixels(tmp_path, shards)
    assert pixels.keys().to_pylist() == ["k1", "k2", "k5", "k6"]
    assert pixels.batch(torch.tensor([3, 0, 2, 2]))[:, 0, 0, 0].tolist() == [6, 1, 5, 5]
    assert pixels.batch(torch.tensor([1])).shape == (1, 3, 2, 2)


def test_images_are_decoded_once(tmp_path: Path) -> None:
    shards = [_shard(tmp_path, "0", ["k1"], ["k1"])]
    names = _pixels(tmp_path, shards).names
    (tmp_path / "0.tar").unlink()
    assert _pixels(tmp_path, shards).names == names


@pytest.mark.parametrize(("keys", "message"), [(["k9"], "image k9"), (["k1", "k7"], "no image for 1 kept")])
def test_missing_and_broken_images_stop(tmp_path: Path, keys: list[str], message: str) -> None:
    shard = _shard(tmp_path, "0", ["k1", "k9"], keys)
    with pytest.raises(DataError, match=message):
        _pixels(tmp_path, [shard])
