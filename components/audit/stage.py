"""Report on the data, drop rows that must not be trained on, and decide whether training may start.

Reads:
    artifacts/download/{*.tar, *.parquet, texts}, artifacts/recaption/{captions, scores, image_embeddings}
    inputs/<download.inputs>/: heads, a reference's summary and an earlier run's caption embeddings, if params
        name them
Writes:
    artifacts/audit/kept/00000.parquet      keys of the shard's kept images
    artifacts/audit/dropped/00000.parquet   its dropped images, each with reason, figure and similar key
    artifacts/audit/verdict.json            every gate with figure, limit, verdict and samples
    artifacts/audit/summary.json            distributions, as a reference for a later run
    artifacts/audit/report.html, report.json, gallery.html
    metrics/audit.json
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.audit.caption_figures import CaptionTable, caption_figures
from components.audit.captions import Captions
from components.audit.curation.dropped import Dropped
from components.audit.curation.score_table import read_scored
from components.audit.curation.select import Curator
from components.audit.drift import drift_gates, read_reference, summary_tree
from components.audit.gallery import ShardFiles, chosen_keys, write_gallery
from components.audit.gates import gates, kept_gate
from components.audit.host_stats import HostStats, read_attempts
from components.audit.images import AuditImages
from components.audit.near_duplicates.comparison import Alike
from components.audit.near_duplicates.duplicates import find_duplicates
from components.audit.near_duplicates.fingerprints import read_fingerprints
from components.audit.report import described_rows, write_report
from components.audit.verdict import explain, verdict_tree
from components.errors import GateError
from components.running.output import output, write_metrics
from components.running.rows import Rows
from components.running.workers import usable_cores
from components.settings.audit import Audit
from components.settings.environment import Environment
from components.settings.params import Params
from components.sources.input_paths import check_seen_by_dvc, paths_of_audit
from components.storage.atomic import remove, replace_folder, write_json
from components.storage.layout import Layout
from components.storage.manifest import Entry, read_manifest
from components.storage.scores import SCORES_FOLDER
from components.storage.shards import ROWS
from components.storage.side_tables import write_keys, write_table

log = logging.getLogger("llm2clip")
DROPPED = pa.schema(
    [
        ("key", pa.string()),
        ("reason", pa.string()),  # a head's name, or one of `settings.audit.REASONS`
        ("value", pa.float64()),  # the deciding figure; null for a leak
        ("like", pa.string()),  # the similar image, for a leak or a near image
    ]
)


def run(params: Params, env: Environment) -> None:
    """Run the stage."""
    layout, limits = Layout(env.work_store), params.audit
    download, inputs = layout.artifact("download"), layout.inputs(params.download.inputs)
    work = layout.work("audit")
    check_seen_by_dvc(inputs, paths_of_audit(limits))
    reference = read_reference(inputs / limits.reference.summary) if limits.reference else {}
    files = read_manifest(download)
    shards = [entry for entry in files if entry.is_shard]
    processes = env.processes or usable_cores()
    fingerprints = read_fingerprints(download, shards, work, processes)
    images = fingerprints.images
    alike = Alike(limits.near_duplicate_bits, limits.near_duplicate_difference)
    duplicates = find_duplicates(fingerprints, alike, work, processes)
    captions = _captions(layout, files, images, limits.samples, processes)
    score_table = read_scored(layout.artifact("recaption"), images)
    host_stats = read_attempts(sorted((download / ROWS).glob("*.parquet")), limits.samples)
    curator = Curator(images, duplicates.leaked if limits.drop_leaked else {})
    curator.curate(limits.curation, score_table, layout, inputs)
    dropped = curator.dropped

    summary = summary_tree(images, captions, score_table, dropped.rows)
    gate_results = [
        *gates(images, duplicates, captions, host_stats, limits),
        *([kept_gate(images, dropped, limits)] if limits.curation.is_asked else []),
        *(drift_gates(summary["features"], reference, limits.reference, limits) if limits.reference else []),
    ]
    verdict = verdict_tree(gate_results, limits)
    rows = _count_rows(params, layout, images, captions.texts, dropped)
    with output(layout, "audit") as out:
        write_shard_keys(out.folder, images, dropped)
        write_json(out.folder / "verdict.json", verdict)
        write_json(out.folder / "summary.json", summary)
        report_rows = described_rows(images, duplicates, dropped, captions, score_table, limits.report_rows)
        write_report(report_rows, verdict, rows.figures()["rejected"], out.folder)
        chosen = chosen_keys(images, dropped, limits.gallery_rows)
        cards = [(_files(layout, entry), chosen[entry.name]) for entry in shards if entry.name in chosen]
        write_gallery(out.folder / "gallery.html", cards, verdict["verdict"])
        if not verdict["passed"]:
            replace_folder(out.folder, work / "failed")
            raise GateError(explain(gate_results, limits, work / "failed" / "report.html"))
    remove(work / "failed")
    for gate in verdict["unknown"]:
        log.warning("audit: %s is unknown; it passes because of audit.unknown_passes", gate)
    counts = {**rows.figures(), "images": len(images), "texts": captions.texts}
    write_metrics(layout, "audit", {**counts, **_figures(limits, verdict, captions, host_stats)})


def _count_rows(params: Params, layout: Layout, images: AuditImages, texts: int, dropped: Dropped) -> Rows:
    """Count all rows, text rows included; only images are dropped."""
    rows = Rows()
    counts = dropped.counts()
    rows.accept(len(images) - sum(counts.values()) + texts)
    for reason, count in counts.items():
        rows.reject(reason, count, dropped.first(reason))
    rows.check(1.0, "audit", params, layout, given=len(images) + texts)
    return rows


def _captions(
    layout: Layout, files: list[Entry], images: AuditImages, samples: int, processes: int
) -> Captions:
    """Return the statistics of all captions: of images from recaption, of text rows from download.

    Args:
        layout: Layout of the project.
        files: Manifest entries of download.
        images: All images.
        samples: Number of sample captions of those that splits share.
        processes: Number of worker processes.
    """
    download, recaption, work = (
        layout.artifact("download"),
        layout.artifact("recaption"),
        layout.work("audit"),
    )
    image_tables = [(recaption, entry) for entry in read_manifest(recaption, "captions/")]
    text_tables = [(download, entry) for entry in files if entry.uri.startswith("texts/")]
    paths = [(folder / entry.uri, entry.sha256) for folder, entry in (*image_tables, *text_tables)]
    shards = [*(entry.name for _, entry in image_tables), *(None for _ in text_tables)]
    figures = caption_figures(paths, work, processes)
    tables = [
        CaptionTable(path, folder, shard)
        for (path, _), folder, shard in zip(paths, figures, shards, strict=True)
    ]
    return Captions(tables, images, samples, work / "digests")


def _files(layout: Layout, entry: Entry) -> ShardFiles:
    name, recaption = f"{entry.name}.parquet", layout.artifact("recaption")
    captions, scores = recaption / "captions" / name, recaption / SCORES_FOLDER / name
    return ShardFiles(layout.artifact("download"), entry, layout.work("audit"), captions, scores)


def _figures(
    limits: Audit, verdict: dict[str, Any], captions: Captions, host_stats: HostStats
) -> dict[str, Any]:
    overlaps: dict[str, dict[str, float]] = {}
    for (split, kind), overlap in captions.overlaps().items():
        overlaps.setdefault(split, {})[kind] = overlap.share
    return {
        "verdict": verdict["verdict"],
        "gates": {gate["name"]: gate["figure"] for gate in verdict["gates"]},
        "hosts": {
            "count": len(host_stats.host_rows),
            "worst": host_stats.worst_hosts(limits.min_host_rows, limits.samples),
        },
        "mean_words": captions.mean_words(),
        "repeated_captions": {column: share for column, (share, _) in captions.repeated_shares().items()},
        "caption_overlap": overlaps,
    }


def write_shard_keys(folder: Path, images: AuditImages, dropped: Dropped) -> None:
    """Write `kept/<shard>.parquet` and `dropped/<shard>.parquet` below a folder.

    Args:
        folder: Output folder.
        images: Images of all shards.
        dropped: The dropped ones of `images`.
    """
    for number, name in enumerate(images.shards):
        rows = images.rows_in(number)
        is_dropped = dropped.rows[rows.start : rows.stop]
        keys = images.keys.chunk(number)
        dropped_rows = [
            {"key": keys[row - rows.start].as_py(), **vars(dropped.drop(row))}
            for row in rows
            if is_dropped[row - rows.start]
        ]
        write_keys(folder / "kept" / f"{name}.parquet", keys.filter(pa.array(~is_dropped)))
        write_table(folder / "dropped" / f"{name}.parquet", pa.Table.from_pylist(dropped_rows, DROPPED))
