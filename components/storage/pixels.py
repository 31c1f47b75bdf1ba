"""Cache of decoded images: uint8 squares per shard in the work store, memory-mapped and read by row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from components.errors import DataError
from components.storage.atomic import content_key, reserve
from components.storage.audited_rows import KeptShard
from components.storage.mapped_rows import MappedRows
from components.storage.result_cache import get_or_build
from components.storage.shards import pairs_in_use
from components.storage.side_tables import key_column, write_keys

if TYPE_CHECKING:
    from torch import Tensor

IMAGES, KEYS = "images.npy", "keys.parquet"


class Pixels:
    """The decoded images of several shards, numbered on from shard to shard."""

    def __init__(self, pieces: list[Path]) -> None:
        self.names = [folder.name for folder in pieces]
        self._folders = pieces
        self._images = MappedRows(
            [np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False) for folder in pieces]
        )

    def __len__(self) -> int:
        return len(self._images)

    def keys(self) -> pa.ChunkedArray:
        """Read the key of each image: (N,)."""
        parts = [key_column(folder / KEYS).combine_chunks() for folder in self._folders]
        return pa.chunked_array(parts, pa.string())

    def batch(self, rows: Tensor) -> Tensor:
        """Return the images (B, 3, size, size) uint8 at row numbers (B,)."""
        return self._images[rows]


def decoded(
    download: Path,
    work: Path,
    shards: list[KeptShard],
    size: int,
    decode: Callable[[bytes, int], Tensor],
    code: str,
) -> Pixels:
    """Decode the kept rows of shards, shard by shard, or reuse what an earlier run decoded.

    Args:
        download: The folder whose manifest lists the shards.
        work: The stage's folder in the work store; the decoded images are cached there.
        shards: Shards with the rows to decode.
        size: Side of the decoded square, in pixels.
        decode: From a JPEG's bytes and the size to uint8 (3, size, size); raises ValueError.
        code: Hash of the code that decodes.

    Raises:
        DataError: an image is missing or unreadable.
    """
    folders = []
    for shard in shards:
        if shard.table.num_rows:
            key = content_key([code, shard.entry.sha256, shard.keys.to_pylist(), size])
            folders.append(get_or_build(work / "pixels", key, _maker(download, work, shard, size, decode)))
    return Pixels(folders)


def _maker(
    download: Path, work: Path, shard: KeptShard, size: int, decode: Callable[[bytes, int], Tensor]
) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        keys = shard.keys.to_pylist()
        rows = {key: row for row, key in enumerate(keys)}
        shape = (len(keys), 3, size, size)
        images: Any = np.lib.format.open_memmap(folder / IMAGES, mode="w+", dtype=np.uint8, shape=shape)
        reserve(folder / IMAGES)
        for pair in pairs_in_use(download, shard.entry, work):
            if pair.key in rows:
                images[rows.pop(pair.key)] = _decode(pair.key, pair.jpeg, size, decode)
        if rows:
            raise DataError(
                f"{download / shard.entry.path} has no image for {len(rows)} kept rows (first {min(rows)}); "
                "run `dvc repro recaption audit` again"
            )
        images.flush()
        write_keys(folder / KEYS, keys)

    return make


def _decode(key: str, jpeg: bytes, size: int, decode: Callable[[bytes, int], Tensor]) -> Any:  # noqa: ANN401
    try:
        return decode(jpeg, size).numpy()
    except ValueError as error:
        raise DataError(f"image {key}: {error}; `llm2clip forget download shards` fetches it again") from None
