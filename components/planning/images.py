"""Estimate the images and captions that sources will give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.planning.past_throughput import Figure, PastThroughput, Run
from components.planning.row_counts import rows_of
from components.settings.params import Params
from components.settings.recaption import Captioner
from components.settings.sources import (
    Captioned,
    Coco,
    Karpathy,
    SceneTexts,
    Source,
    SplitByColumn,
    TextTable,
)
from components.sources.source_requirements import is_fetched

SENTENCES = 5  # of an image of COCO, Flickr8k or Flickr30k
# urls die: the share that still answers with an image is that of whoever tried last and told of it
ANSWERS = {
    "cc3m": Figure(0.70, "rom1504/img2dataset issue 391, January 2024"),
    "cc12m": Figure(0.62, "google-research-datasets/conceptual-12m issue 9, October 2025"),
    "yfcc15m": Figure(0.66, "abhimanyudubey/GeoYFCC issue 2, June 2021, of other photographs of YFCC100M"),
    "recap_datacomp": Figure(0.88, "mlfoundations/datacomp issue 41, July 2023"),
}
UNKNOWN_ANSWERS = Figure(1.0, "an upper bound: nobody knows how many of these urls are dead")
HERE = Figure(1.0, "they are here")
SCENE_CAPTIONS = 6  # of a scene for validation or test; one for training has only alt


@dataclass(frozen=True)
class PlannedSource:
    """One source of images.

    Attributes:
        name: Of params.
        rows: With where the number is from.
        is_fetched: Whether its images come over HTTP.
        comes: Share of rows that become images.
        captions: Of one image.
        splits: Of its rows, as far as params say; None: any.
    """

    name: str
    rows: Figure
    is_fetched: bool
    comes: Figure
    captions: int
    splits: frozenset[str] | None

    @property
    def images(self) -> float:
        """Images that come."""
        return self.rows.value * self.comes.value


@dataclass(frozen=True)
class PlannedImages:
    """All sources of images, and the earlier run of download that the shares are from, if there is one."""

    sources: list[PlannedSource]
    texts: float  # rows without an image
    run: Run | None

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
        """Images that come, fetched or not."""
        return sum(source.images for source in self.sources)

    @property
    def fetched(self) -> float:
        """Images that come over HTTP."""
        return sum(source.images for source in self.sources if source.is_fetched)

    def images_of(self, splits: set[str]) -> float:
        """Return the images that are, or may be, of one of these splits."""
        return sum(
            source.images for source in self.sources if source.splits is None or source.splits & splits
        )

    @property
    def captions(self) -> float:
        """Captions that the sources give to images."""
        return sum(source.images * source.captions for source in self.sources)

    def written(self, captioners: Iterable[Captioner]) -> float:
        """Return the captions that captioners add: one for each image and column."""
        return sum(
            self.images_of(set(splits)) for captioner in captioners for _, splits in captioner.written()
        )

    def captions_with(self, captioners: Iterable[Captioner]) -> float:
        """Return the captions of sources and captioners."""
        return self.captions + self.written(captioners)

    def because(self) -> list[str]:
        """Return in words where rows and images are from."""
        rows: dict[str, list[str]] = {}
        shares: dict[str, list[str]] = {}
        for one in self.sources:
            rows.setdefault(one.rows.origin, []).append(f"{one.name} {one.rows.value:,.0f}")
            share = f"{one.comes.value:.0%} of rows become images: {one.comes.origin}"
            shares.setdefault(share, []).append(one.name)
        return [
            *(f"rows of {', '.join(counts)}: {origin}" for origin, counts in rows.items()),
            *(f"{', '.join(names)}: {share}" for share, names in shares.items()),
        ]


def planned_images(params: Params, measured: PastThroughput) -> PlannedImages:
    """Count what sources will give; a file is looked at only where params give no limit.

    Raises:
        ConfigurationError: a source has neither a limit nor a file whose rows can be counted.
    """
    inputs = measured.layout.inputs(params.download.inputs)
    images = [one for one in params.download.sources if not isinstance(one, TextTable | SceneTexts)]
    texts = [one for one in params.download.sources if isinstance(one, TextTable | SceneTexts)]
    fetched = {one.name for one in images if is_fetched(one)}

    def rows(metrics: dict[str, Any]) -> int:
        own = metrics["images"]
        return int(own["rows_in"]) if fetched and fetched <= own["sources"].keys() else 0

    run = measured.run("download", rows)
    return PlannedImages(
        [_planned(one, inputs, run) for one in images],
        sum(rows_of(one, inputs).value for one in texts),
        run,
    )


def _planned(source: Source, inputs: Path, run: Run | None) -> PlannedSource:
    comes = _comes(source, run) if is_fetched(source) else HERE
    return PlannedSource(
        source.name,
        rows_of(source, inputs),
        is_fetched(source),
        comes,
        _captions(source),
        possible_splits(source),
    )


def _comes(source: Source, run: Run | None) -> Figure:
    if run is None:
        return ANSWERS.get(source.name, UNKNOWN_ANSWERS)
    images = run.metrics["images"]
    return Figure(images["rows_out"] / images["rows_in"], run.origin)


def _captions(source: Source) -> int:
    if not isinstance(source, Captioned):
        return SCENE_CAPTIONS
    return len(source.captions) * (SENTENCES if isinstance(source, Coco | Karpathy) else 1)


def possible_splits(source: Source) -> frozenset[str] | None:
    """Return the splits that a source's rows may be of, as far as params say; None: any."""
    if isinstance(source, Karpathy):
        return frozenset(split for split in source.splits.values() if split)
    if isinstance(source, Coco):
        return frozenset({source.split})
    if isinstance(source, SplitByColumn) and source.split:
        return frozenset({source.split})
    return None
