"""The audit's gates on images and captions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from components.audit.captions import Captions
from components.audit.curation.dropped import Dropped
from components.audit.host_stats import HostStats, success_gates
from components.audit.images import SPLITS, AuditImages
from components.audit.near_duplicates.duplicates import Duplicates
from components.audit.verdict import GateResult
from components.settings.audit import Audit


def gates(
    images: AuditImages, duplicates: Duplicates, captions: Captions, host_stats: HostStats, limits: Audit
) -> list[GateResult]:
    """Return all gates.

    Args:
        images: All images of download.
        duplicates: Duplicates by row number of `images`.
        captions: Captions of all rows.
        host_stats: Download outcomes by host.
        limits: Params of the audit.
    """
    return [
        *(_enough_rows(split, images.rows_of(split), limits) for split in SPLITS),
        *success_gates(host_stats, limits),
        _duplicate_gate("exact_duplicates", images, duplicates.exact, None, limits),
        _duplicate_gate("near_duplicates", images, duplicates.near, "train", limits),
        _duplicate_gate("leaked", images, duplicates.leaked_tests, "test", limits),
        _repeated_captions(captions, limits),
        *_caption_overlap(captions, limits),
    ]


def kept_gate(images: AuditImages, dropped: Dropped, limits: Audit) -> GateResult:
    """Return the gate on the number of train images that curation keeps."""
    kept = int(np.count_nonzero(images.are("train") & ~dropped.rows))
    of, param = "train images that go on", "audit.min_rows"
    return GateResult("kept_train", float(kept), limits.min_rows, "at_least", kept, of, param)


def _enough_rows(split: str, rows: int, limits: Audit) -> GateResult:
    figure = float(rows) if rows else None
    return GateResult(f"rows_{split}", figure, limits.min_rows, "at_least", rows, "images", "audit.min_rows")


def _duplicate_gate(
    name: str,
    images: AuditImages,
    originals: Mapping[int, int],
    split: str | None,
    limits: Audit,
) -> GateResult:
    param = f"max_{name.removesuffix('s')}_share"
    duplicate_rows = np.fromiter(originals, np.int64, len(originals))
    if split:
        duplicate_rows = duplicate_rows[images.are(split)[duplicate_rows]]
    rows = images.rows_of(split) if split else len(images)
    share = len(duplicate_rows) / rows if rows >= limits.min_rows else None
    samples = [
        {"key": images.key(row), "like": images.key(originals[row])}
        for row in duplicate_rows[: limits.samples].tolist()
    ]
    of = f"{split} images" if split else "images"
    return GateResult(name, share, getattr(limits, param), "at_most", rows, of, f"audit.{param}", samples)


def _repeated_captions(captions: Captions, limits: Audit) -> GateResult:
    known = {
        column: share_and_rows
        for column, share_and_rows in captions.repeated_shares().items()
        if share_and_rows[1] >= limits.min_rows
    }
    column, (share, rows) = max(known.items(), key=lambda item: item[1], default=("train", (None, 0)))
    limit = limits.max_repeated_caption_share
    of, param = f"{column} captions", "audit.max_repeated_caption_share"
    return GateResult("repeated_captions", share, limit, "at_most", rows, of, param)


def _caption_overlap(captions: Captions, limits: Audit) -> list[GateResult]:
    if limits.max_caption_overlap_share is None:
        return []
    overlaps = {
        kind: overlap
        for (split, kind), overlap in captions.overlaps().items()
        if split == "test" and overlap.rows >= limits.min_rows
    }
    kind, worst = max(overlaps.items(), key=lambda item: item[1].share, default=("test", None))
    share, rows, samples = (worst.share, worst.rows, worst.samples) if worst else (None, 0, [])
    limit, param = limits.max_caption_overlap_share, "audit.max_caption_overlap_share"
    of = f"test captions {kind}" if worst else "test captions"
    return [GateResult("caption_overlap", share, limit, "at_most", rows, of, param, samples)]
