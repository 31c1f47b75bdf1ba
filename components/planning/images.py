"""Estimate the number and size of images and captions of the sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import ConfigurationError, DataError
from components.planning.past_throughput import Figure, PastRun, PastThroughput
from components.settings.download import Download
from components.settings.params import Params
from components.settings.recaption import Captioner
from components.settings.sources import (
    Captioned,
    Coco,
    Karpathy,
    Scenes,
    SceneTexts,
    Source,
    SplitByColumn,
    Table,
    TextTable,
)
from components.sources.files import named_files
from components.sources.source_requirements import is_far, is_fetched

SENTENCES = 5  # captions of an image of COCO, Flickr8k or Flickr30k
# share of urls that still answer with an image, from the latest public report
ANSWERS = {
    "cc3m": Figure(0.70, "rom1504/img2dataset issue 391, January 2024"),
    "cc12m": Figure(0.62, "google-research-datasets/conceptual-12m issue 9, October 2025"),
    "yfcc15m": Figure(0.66, "abhimanyudubey/GeoYFCC issue 2, June 2021, of other photographs of YFCC100M"),
    "recap_datacomp": Figure(0.88, "mlfoundations/datacomp issue 41, July 2023"),
}
UNKNOWN_ANSWERS = Figure(1.0, "an upper bound: the share of dead urls is unknown")
HERE = Figure(1.0, "local files")
SCENE_CAPTIONS = 6  # of a scene for validation or test; a scene for training has only alt
TEXT_TABLES = (".csv", ".tsv")
BLOCK_BYTES = 1 << 24
PICTURE_BYTES = Figure(
    157e3, "assumed, as `python -m bench.fetch_rates` serves: 1024 x 768 pixels at 1.6 bits each"
)
MEASURED_SIZE, MEASURED_QUALITY = 256, 95
JPEG_BYTES = 30.4e3  # of 200 photographs, most of 400 to 640 pixels
TEXT_BYTES = 4.1e3  # of tar headers, ledger fields and three captions as long as DreamLIP's


@dataclass(frozen=True)
class PlannedSource:
    """One source of images.

    Attributes:
        name: Name in params.
        rows: Number of rows, with its origin.
        is_fetched: True if its images are fetched over HTTP.
        comes: Share of rows that become images.
        captions: Captions of one image.
        splits: Possible splits of its rows according to params; None: any.
    """

    name: str
    rows: Figure
    is_fetched: bool
    comes: Figure
    captions: int
    splits: frozenset[str] | None

    @property
    def images(self) -> float:
        """Number of images."""
        return self.rows.value * self.comes.value


@dataclass(frozen=True)
class PlannedImages:
    """All sources of images, and the earlier run of download that the shares come from, if any."""

    sources: list[PlannedSource]
    texts: float  # rows without an image
    run: PastRun | None

    @property
    def rows(self) -> float:
        """Rows of all sources of images."""
        return sum(source.rows.value for source in self.sources)

    @property
    def requests(self) -> float:
        """Rows whose images are fetched."""
        return sum(source.rows.value for source in self.sources if source.is_fetched)

    @property
    def images(self) -> float:
        """Images of all sources, fetched or local."""
        return sum(source.images for source in self.sources)

    @property
    def fetched(self) -> float:
        """Images fetched over HTTP."""
        return sum(source.images for source in self.sources if source.is_fetched)

    def images_of(self, splits: set[str]) -> float:
        """Return the number of images that are, or may be, of one of these splits."""
        return sum(
            source.images for source in self.sources if source.splits is None or source.splits & splits
        )

    @property
    def captions(self) -> float:
        """Captions of images from the sources."""
        return sum(source.images * source.captions for source in self.sources)

    def written(self, captioners: Iterable[Captioner]) -> float:
        """Return the number of captions that captioners add: one for each image and column."""
        return sum(
            self.images_of(set(splits)) for captioner in captioners for _, splits in captioner.written()
        )

    def captions_with(self, captioners: Iterable[Captioner]) -> float:
        """Return the number of captions of sources and captioners."""
        return self.captions + self.written(captioners)

    def because(self) -> list[str]:
        """Return in words where the numbers of rows and images come from."""
        rows: dict[str, list[str]] = {}
        shares: dict[str, list[str]] = {}
        for source in self.sources:
            rows.setdefault(source.rows.origin, []).append(f"{source.name} {source.rows.value:,.0f}")
            share = f"{source.comes.value:.0%} of rows become images: {source.comes.origin}"
            shares.setdefault(share, []).append(source.name)
        return [
            *(f"rows of {', '.join(counts)}: {origin}" for origin, counts in rows.items()),
            *(f"{', '.join(names)}: {share}" for share, names in shares.items()),
        ]


def planned_images(params: Params, measured: PastThroughput) -> PlannedImages:
    """Count the images of the sources; a file is read only if params give no limit.

    Raises:
        ConfigurationError: a source has neither a limit nor a file whose rows can be counted.
    """
    inputs = measured.layout.inputs(params.download.inputs)
    images = [source for source in params.download.sources if not isinstance(source, TextTable | SceneTexts)]
    texts = [source for source in params.download.sources if isinstance(source, TextTable | SceneTexts)]
    fetched = {source.name for source in images if is_fetched(source)}

    def rows(metrics: dict[str, Any]) -> int:
        counts = metrics["images"]
        return int(counts["rows_in"]) if fetched and fetched <= counts["sources"].keys() else 0

    run = measured.run("download", rows)
    return PlannedImages(
        [_planned(source, inputs, run) for source in images],
        sum(rows_of(source, inputs).value for source in texts),
        run,
    )


def _planned(source: Source, inputs: Path, run: PastRun | None) -> PlannedSource:
    comes = _success_share(source, run) if is_fetched(source) else HERE
    return PlannedSource(
        source.name,
        rows_of(source, inputs),
        is_fetched(source),
        comes,
        _captions(source),
        possible_splits(source),
    )


def _success_share(source: Source, run: PastRun | None) -> Figure:
    if run is None:
        return ANSWERS.get(source.name, UNKNOWN_ANSWERS)
    images = run.metrics["images"]
    return Figure(images["rows_out"] / images["rows_in"], run.origin)


def _captions(source: Source) -> int:
    if not isinstance(source, Captioned):
        return SCENE_CAPTIONS
    return len(source.captions) * (SENTENCES if isinstance(source, Coco | Karpathy) else 1)


def possible_splits(source: Source) -> frozenset[str] | None:
    """Return the possible splits of a source's rows according to params; None: any."""
    if isinstance(source, Karpathy):
        return frozenset(split for split in source.splits.values() if split)
    if isinstance(source, Coco):
        return frozenset({source.split})
    if isinstance(source, SplitByColumn) and source.split:
        return frozenset({source.split})
    return None


def rows_of(source: Source, inputs: Path) -> Figure:
    """Return the number of rows of a source; a file is read only if params give no limit.

    Args:
        source: From params.
        inputs: Folder that its paths are relative to.

    Raises:
        ConfigurationError: the source has neither a limit nor files whose rows can be counted.
        DataError: a file is damaged.
    """
    if isinstance(source, Scenes | SceneTexts):
        counts = source.counts
        return Figure(counts.train + counts.validation + counts.test, "as set in params")
    if source.limit is not None:
        return Figure(source.limit, "the limit in params; the files may hold fewer")
    return Figure(sum(_counted(source, path) for path in _tables(source, inputs)), "counted in the files")


def _tables(source: Captioned, inputs: Path) -> Iterator[Path]:
    try:
        if is_far(source):
            raise ConfigurationError("its shards are remote; copy them here")
        yield from named_files(inputs, source.path, (".parquet", *TEXT_TABLES)).paths
    except ConfigurationError as error:
        raise ConfigurationError(
            f"the number of rows of download.sources {source.name} is unknown: {error}, or set its limit to "
            "its number of rows"
        ) from None


def _counted(source: Captioned, path: Path) -> int:
    """Return the rows of a table: from the footer of parquet, or the lines of text."""
    if path.suffix.lower() == ".parquet":
        return _footer_rows(path)
    if path.suffix.lower() not in TEXT_TABLES:
        raise ConfigurationError(
            f"download.sources {source.name}: the rows of {path.name} cannot be counted without "
            "reading it; expected parquet, csv or tsv, or a limit: set its limit to its number of rows"
        )
    with path.open("rb") as file:
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(BLOCK_BYTES), b""))
    has_header = not (isinstance(source, Table) and source.columns)
    return max(0, lines - has_header)


def _footer_rows(path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is damaged ({reason}); fetch it again") from None


def original_size(images: PlannedImages) -> Figure:
    """Return the bytes of an image fetched over HTTP."""
    if images.run:
        figures = images.run.metrics["images"]
        if figures.get("original_bytes"):
            return Figure(figures["original_bytes"] / figures["rows_out"], images.run.origin)
    return PICTURE_BYTES


def shard_size(images: PlannedImages, download: Download) -> Figure:
    """Return the bytes of an image in a shard, with its captions."""
    if images.run:
        figures = images.run.metrics["images"]
        if figures.get("shard_bytes"):
            return Figure(figures["shard_bytes"] / figures["rows_out"], images.run.origin)
    size, quality = download.images.size, download.images.jpeg_quality
    origin = (
        f"{JPEG_BYTES / 1e3:g} kB of a JPEG of {MEASURED_SIZE} pixels and quality {MEASURED_QUALITY} "
        f"(200 photographs of COCO and Flickr8k), {TEXT_BYTES / 1e3:g} kB beside it: "
        "`python -m bench.fetch_rates`"
    )
    if size != MEASURED_SIZE:
        origin += f"; assumed to grow with the area to {size} pixels"
    if quality != MEASURED_QUALITY:
        origin += f"; quality {quality} was not measured"
    return Figure(JPEG_BYTES * (size / MEASURED_SIZE) ** 2 + TEXT_BYTES, origin)
