"""Fingerprints of all images: sha256, difference hash and thumbnail; one cached job per shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
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
from components.storage.atomic import write_bytes
from components.storage.computed import code_of
from components.storage.known_images import KnownImages, Lines, write_pictures
from components.storage.manifest import Entry
from components.storage.result_cache import get_or_build, is_intact
from components.storage.shards import image_table, read_pairs
from components.storage.side_tables import read_table, write_table

HASH_SIDE = 8
THUMBNAIL_SIDE = 16
THUMBNAIL_BYTES = THUMBNAIL_SIDE * THUMBNAIL_SIDE * 3
DECODE_DEADLINE_SECONDS = 60.0  # more than download's own limit, 30 by default
TABLE, THUMBNAILS = "fingerprints.parquet", "thumbnails.bin"
FINGERPRINTS = pa.schema(
    [
        ("key", pa.string()),
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


def fingerprint(jpeg: bytes, key: str) -> Fingerprint:
    """Compute the fingerprint of one image.

    Raises:
        DataError: the image cannot be decoded.
    """
    image = _decoded(jpeg, key)
    return Fingerprint(
        key=key,
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
        known: Results that have some of its pictures, with the lines.
        deadly: Indices of images that crashed a process before.
    """

    download: Path
    entry: Entry
    work: Path
    known: Mapping[Path, Lines] = field(default_factory=dict)
    deadly: frozenset[int] = frozenset()

    def __call__(self, reporter: ProgressReporter) -> Path:
        """Return the folder of the cached result: the fingerprints of all pictures in the tar."""
        store = results_of(self.work)
        result = get_or_build(store, self.entry.sha256, lambda folder: self._make(folder, reporter))
        reporter.advance(self.entry.rows or 0)
        return result

    def skip_item(self, item: int) -> Self:
        """Return the same job, which raises an error for this image instead of decoding it."""
        return replace(self, deadly=self.deadly | {item})

    def _make(self, folder: Path, reporter: ProgressReporter) -> None:
        silent_reporter = reporter.uncounted()
        known = {one.sha256: one for found in self.known.items() for one in _read_lines(*found)}
        fingerprints = []
        for index, pair in enumerate(read_pairs(self.download, self.entry, self.work)):
            if one := known.get(sha256(pair.jpeg).digest()):
                fingerprints.append(replace(one, key=pair.key))
                continue
            if index in self.deadly:
                raise undecodable(pair.key, "it crashes the decoder, or takes too long")
            with silent_reporter.at(index, DECODE_DEADLINE_SECONDS):
                fingerprints.append(fingerprint(pair.jpeg, pair.key))
        write_fingerprints(folder, fingerprints)


def results_of(work: Path) -> Path:
    """Return the folder of the results of all shards, of the current code."""
    return work / "fingerprints" / code_of(work, "audit", "fingerprints")


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
    store = results_of(work)
    missing = [entry for entry in shards if not is_intact(store / entry.sha256)]
    known = KnownImages(store, download, missing)
    jobs = {entry.sha256: ShardFingerprints(download, entry, work) for entry in shards}
    for entry in missing:
        found = known.find(image_table(download, entry)["sha256"].to_pylist())
        jobs[entry.sha256] = replace(jobs[entry.sha256], known=found)
    progress = Progress(work, "audit", sum(job.entry.rows or 0 for job in jobs.values()), "images")
    folders = pieces_by_content(jobs, processes, progress, MODULES, store)
    fingerprints = joined(
        [folders[entry.sha256] for entry in shards],
        [entry.name for entry in shards],
        [image_table(download, entry) for entry in shards],
    )
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
    write_pictures(folder, [row.key for row in rows], [row.sha256.hex() for row in rows])


def _read_lines(folder: Path, lines: Lines) -> Iterator[Fingerprint]:
    """Yield the fingerprints of some lines of a result."""
    table = read_table(folder / TABLE, FINGERPRINTS)
    indices = np.array(list(lines.values()), np.int32)
    thumbnails = Thumbnails([folder / THUMBNAILS], [len(indices)], indices, THUMBNAIL_BYTES)
    taken = thumbnails.take(np.arange(len(indices)))
    for values, thumbnail in zip(table.take(indices).to_pylist(), taken, strict=True):
        yield Fingerprint(**values, thumbnail=thumbnail)


def joined(folders: Sequence[Path], names: Sequence[str], images: Iterable[pa.Table]) -> Fingerprints:
    """Concatenate the fingerprints of several shards; only the thumbnails stay on disk.

    Args:
        folders: The result of each shard.
        names: The shards.
        images: Of each shard, `key` and `split` of the images in use; its result may have others.

    Raises:
        DataError: a result lacks an image.
    """
    keys, splits, digests, hashes, lines = [], [], [], [], [np.empty(0, np.int32)]
    sizes = [pa.schema([FINGERPRINTS.field(name) for name in SIZES]).empty_table()]
    for folder, in_use in zip(folders, images, strict=True):
        table = read_table(folder / TABLE, FINGERPRINTS)
        places = pc.index_in(in_use["key"], value_set=table["key"])
        if places.null_count:
            key = in_use["key"].filter(pc.is_null(places))[0].as_py()
            raise DataError(
                f"{folder} has no fingerprint of {key}, which download's tables name; expected one; "
                "the shard is damaged: run `dvc checkout --force`"
            )
        lines.append(places.to_numpy().astype(np.int32))
        table = table.take(places)
        keys.append(in_use["key"].combine_chunks())
        splits.append(split_places(in_use["split"], folder))
        digests.append(_first_halves(table["sha256"]))
        hashes.append(table["difference_hash"].to_numpy())
        sizes.append(table.select(SIZES))
    audit_images = AuditImages(
        pa.chunked_array(keys, pa.string()),
        np.concatenate([np.empty(0, np.uint8), *splits]),
        pa.concat_tables(sizes),
        names,
    )
    paths = [folder / THUMBNAILS for folder in folders]
    counts = [len(shard_splits) for shard_splits in splits]
    return Fingerprints(
        audit_images,
        np.concatenate([np.empty((0, 2), np.uint64), *digests]),
        np.concatenate([np.empty(0, np.uint64), *hashes]),
        Thumbnails(paths, counts, np.concatenate(lines), THUMBNAIL_BYTES),
    )


def _first_halves(digests: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return (n, 2): the first 16 of the 32 bytes of each digest."""
    raw = b"".join(digests.to_pylist())
    return np.frombuffer(raw, np.uint64).reshape(len(digests), 4)[:, :2].copy()
