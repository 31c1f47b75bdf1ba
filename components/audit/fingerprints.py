"""What an image is compared by: sha256 of its bytes, a 64-bit difference hash, a small colour thumbnail."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from components.faults import DataFault
from components.running.progress import Progress
from components.storage.atomic import content_key
from components.storage.manifest import Entry
from components.storage.pieces import piece
from components.storage.shards import Pair, read_pairs
from components.storage.side_tables import read_table, write_table

FORMAT_VERSION = 1  # raised by hand when a fingerprint of the same image changes
HASH_SIDE = 8
THUMBNAIL_SIDE = 16
FINGERPRINTS = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("sha256", pa.string()),
        ("difference_hash", pa.uint64()),
        ("thumbnail", pa.binary(THUMBNAIL_SIDE * THUMBNAIL_SIDE * 3)),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
    ]
)


def read_fingerprints(download: Path, shards: list[Entry], work: Path) -> pa.Table:
    """Return the fingerprints of all shards' images in order, made unless an earlier run has.

    Raises:
        DataFault: a shard is damaged, or two images have one key.
    """
    progress = Progress(work, "audit", sum(entry.rows or 0 for entry in shards), "images")
    tables = [FINGERPRINTS.empty_table()]
    for entry in shards:
        key = content_key([FORMAT_VERSION, entry.sha256])

        def make(folder: Path, shard: Entry = entry) -> None:
            write_fingerprints(read_pairs(download, shard, work), folder / "fingerprints.parquet")

        folder = piece(work / "fingerprints", key, make)
        tables.append(read_table(folder / "fingerprints.parquet", FINGERPRINTS))
        progress.advance(entry.rows or 0)
    table = pa.concat_tables(tables)
    _refuse_equal_keys(table.column("key"))
    return table


def _refuse_equal_keys(keys: pa.ChunkedArray) -> None:
    if pc.count_distinct(keys).as_py() == len(keys):
        return
    counts = keys.value_counts()
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    raise DataFault(
        f"{len(twice)} keys stand more than once in download's shards, {twice[0]} first; expected each once: "
        "one shard is another's copy, `dvc repro --force download` makes them again"
    )


def write_fingerprints(pairs: Iterable[Pair], target: Path) -> None:
    """Write the fingerprints of a shard's images, in the shard's order."""
    found = [fingerprint(pair.jpeg, pair.key, pair.metadata["split"]) for pair in pairs]
    write_table(target, pa.Table.from_pylist(found, FINGERPRINTS))


def difference_hash(image: Image.Image) -> int:
    """Return the 64-bit difference hash: whether the right neighbour is brighter, at 8 x 8 places.

    Source: N. Krawetz, "Kind of Like That" (2013).
    """
    grey = image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    pixels = np.asarray(grey, np.int16)
    bits = pixels[:, 1:] > pixels[:, :-1]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """Return the image's 16 x 16 averages in colour, flat."""
    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return np.asarray(image.convert("RGB").resize(side, Image.Resampling.BOX), np.uint8).reshape(-1)


def fingerprint(jpeg: bytes, key: str, split: str) -> dict[str, object]:
    """Return what one image is compared by, a row of `FINGERPRINTS`.

    Raises:
        DataFault: it cannot be decoded.
    """
    try:
        with Image.open(BytesIO(jpeg), formats=["JPEG"]) as image:
            image.load()  # whole: JPEG's own shrinking moves a thumbnail by 2 to 4 grey levels
            return {
                "key": key,
                "split": split,
                "sha256": sha256(jpeg).hexdigest(),
                "difference_hash": difference_hash(image),
                "thumbnail": thumbnail(image).tobytes(),
                "width": image.width,
                "height": image.height,
                "bytes": len(jpeg),
            }
    except (UnidentifiedImageError, OSError) as error:
        raise DataFault(
            f"image {key} cannot be decoded ({error}); expected the JPEG that download wrote: "
            "`dvc repro --force download`"
        ) from None
