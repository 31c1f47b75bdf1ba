"""Fingerprints of all images: sha256, difference hash and thumbnail; one cached job per shard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from components.audit.images import SIZES, AuditImages, Thumbnails, split_places
from components.errors import DataError
from components.running.jobs import Modules, ProgressReporter
from components.running.progress import Progress
from components.running.workers import pieces_by_content
from components.storage.atomic import content_key, write_bytes
from components.storage.computed import code_of
from components.storage.manifest import Entry
from components.storage.result_cache import get_or_build
from components.storage.shards import image_key, pairs_in_use
from components.storage.side_tables import read_table, write_table

HASH_SIDE = 8
THUMBNAIL_SIDE = 16
THUMBNAIL_BYTES = THUMBNAIL_SIDE * THUMBNAIL_SIDE * 3
DECODE_DEADLINE_SECONDS = 60.0  # more than download's own limit, 30 by default
TABLE, THUMBNAILS = "fingerprints.parquet", "thumbnails.bin"
FINGERPRINTS = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("sha256", pa.binary(32)),
        ("difference_hash", pa.uint64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
    ]
)
MODULES = Modules(
    imported=("components.audit.near_duplicates.fingerprints",), blocked_imports=("pandas", "torch")
)


@dataclass(frozen=True)
class Fingerprint:
    """The fingerprint of one image."""

    key: str
    split: str
    sha256: bytes
    difference_hash: int
    width: int
    height: int
    bytes: int
    thumbnail: NDArray[np.uint8]  # (768,)


def difference_hash(image: Image.Image) -> int:
    """Return the 64-bit difference hash: whether the right neighbour is brighter, at 8 x 8 points.

    Source: N. Krawetz, "Kind of Like That" (2013).
    """
    grey = image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    pixels = np.asarray(grey, np.int16)
    bits = pixels[:, 1:] > pixels[:, :-1]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """Return the 16 x 16 RGB block averages of an image, flattened."""
    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return np.asarray(image.convert("RGB").resize(side, Image.Resampling.BOX), np.uint8).reshape(-1)


def fingerprint(jpeg: bytes, key: str, split: str) -> Fingerprint:
    """Compute the fingerprint of one image.

    Raises:
        DataError: the image cannot be decoded.
    """
    image = _decoded(jpeg, key)
    return Fingerprint(
        key=key,
        split=split,
        sha256=sha256(jpeg).digest(),
        difference_hash=difference_hash(image),
        width=image.width,
        height=image.height,
        bytes=len(jpeg),
        thumbnail=thumbnail(image),
    )


def _decoded(jpeg: bytes, key: str) -> Image.Image:
    """Decode an image at its own size.

    Reduced-size JPEG decoding saves a tenth to a half of the time, but shifts a thumbnail by up to 5 grey
    levels at half size and 20 at a quarter: as much as two images that look the same may differ.
    """
    with suppress(Exception):  # Pillow tolerates more: it decides, and gives the reason
        return Image.fromarray(simplejpeg.decode_jpeg(jpeg, "RGB"))  # Pillow's pixels, in half its time
    try:
        with Image.open(BytesIO(jpeg), formats=["JPEG"]) as image:
            image.load()
            return image
    except (UnidentifiedImageError, OSError) as error:
        raise undecodable(key, str(error)) from None


def undecodable(key: str, why: str) -> DataError:
    """Return the error for an image that cannot be decoded."""
    return DataError(
        f"image {key} cannot be decoded ({why}); expected the JPEG that download wrote; "
        "run `llm2clip forget download shards` to fetch all again, with `--shard NAME` one shard only"
    )


@dataclass(frozen=True)
class Fingerprints:
    """The fingerprints of all images, by row number.

    Attributes:
        images: Keys, splits and sizes.
        digests: (N, 2) the first 16 bytes of each sha256, long enough to avoid collisions.
        hashes: (N,) difference hashes.
        thumbnails: Thumbnails on disk.
    """

    images: AuditImages
    digests: NDArray[np.uint64]
    hashes: NDArray[np.uint64]
    thumbnails: Thumbnails


@dataclass(frozen=True)
class ShardFingerprints:
    """The job that computes the fingerprints of one shard; it can run in another process.

    Attributes:
        download: Folder of the artifact of download.
        entry: Manifest entry of the shard.
        work: The stage's folder in the work store.
        deadly: Indices of images that crashed a process before.
    """

    download: Path
    entry: Entry
    work: Path
    deadly: frozenset[int] = frozenset()

    def __call__(self, reporter: ProgressReporter) -> Path:
        """Return the folder of the cached result."""
        store, code = self.work / "fingerprints", code_of(self.work, "audit", "fingerprints")
        key = content_key([code, image_key(self.download, self.entry)])
        result = get_or_build(store, key, lambda folder: self._make(folder, reporter))
        reporter.advance(self.entry.rows or 0)
        return result

    def skip_item(self, item: int) -> Self:
        """Return the same job, which raises an error for this image instead of decoding it."""
        return replace(self, deadly=self.deadly | {item})

    def _make(self, folder: Path, reporter: ProgressReporter) -> None:
        silent_reporter = reporter.uncounted()
        fingerprints = []
        for index, pair in enumerate(pairs_in_use(self.download, self.entry, self.work)):
            if index in self.deadly:
                raise undecodable(pair.key, "it crashes the decoder, or takes too long")
            with silent_reporter.at(index, DECODE_DEADLINE_SECONDS):
                fingerprints.append(fingerprint(pair.jpeg, pair.key, pair.metadata["split"]))
        write_fingerprints(folder, fingerprints)


def read_fingerprints(download: Path, shards: Sequence[Entry], work: Path, processes: int) -> Fingerprints:
    """Return the fingerprints of all images in shard order; compute what no earlier run has cached.

    Args:
        download: Folder of the artifact of download.
        shards: Manifest entries of its shards.
        work: The stage's folder in the work store.
        processes: Number of worker processes.

    Raises:
        DataError: a shard is damaged, or two images have one key.
    """
    keys = {entry: image_key(download, entry) for entry in shards}
    jobs = {keys[entry]: ShardFingerprints(download, entry, work) for entry in shards}
    progress = Progress(work, "audit", sum(job.entry.rows or 0 for job in jobs.values()), "images")
    folders = pieces_by_content(jobs, processes, progress, MODULES, work / "fingerprints")
    fingerprints = joined([folders[keys[entry]] for entry in shards], [entry.name for entry in shards])
    _refuse_equal_keys(fingerprints.images.keys)
    return fingerprints


def _refuse_equal_keys(keys: pa.ChunkedArray) -> None:
    if pc.count_distinct(keys).as_py() == len(keys):
        return
    counts = keys.value_counts()
    repeats = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    raise DataError(
        f"{len(repeats)} keys occur more than once in download's shards, {repeats[0]} first; "
        "expected each once; one shard is a copy of another: run "
        "`llm2clip forget download shards --shard NAME` on it"
    )


def write_fingerprints(folder: Path, fingerprints: Iterable[Fingerprint]) -> None:
    """Write the fingerprints of a shard's images, in the shard's order."""
    rows = list(fingerprints)
    columns = {name: [getattr(row, name) for row in rows] for name in FINGERPRINTS.names}
    write_table(folder / TABLE, pa.table(columns, FINGERPRINTS))
    write_bytes(folder / THUMBNAILS, b"".join(row.thumbnail.tobytes() for row in rows))


def joined(folders: Sequence[Path], names: Sequence[str]) -> Fingerprints:
    """Concatenate the fingerprints of several shards; only the thumbnails stay on disk."""
    keys, splits, digests, hashes = [], [], [], []
    sizes = [pa.schema([FINGERPRINTS.field(name) for name in SIZES]).empty_table()]
    for folder in folders:
        table = read_table(folder / TABLE, FINGERPRINTS)
        keys.append(table["key"].combine_chunks())
        splits.append(split_places(table["split"], folder))
        digests.append(_first_halves(table["sha256"]))
        hashes.append(table["difference_hash"].to_numpy())
        sizes.append(table.select(SIZES))
    images = AuditImages(
        pa.chunked_array(keys, pa.string()),
        np.concatenate([np.empty(0, np.uint8), *splits]),
        pa.concat_tables(sizes),
        names,
    )
    paths, counts = (
        [folder / THUMBNAILS for folder in folders],
        [len(shard_splits) for shard_splits in splits],
    )
    return Fingerprints(
        images,
        np.concatenate([np.empty((0, 2), np.uint64), *digests]),
        np.concatenate([np.empty(0, np.uint64), *hashes]),
        Thumbnails(paths, counts, THUMBNAIL_BYTES),
    )


def _first_halves(digests: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return (n, 2): the first 16 of the 32 bytes of each digest."""
    raw = b"".join(digests.to_pylist())
    return np.frombuffer(raw, np.uint64).reshape(len(digests), 4)[:, :2].copy()
