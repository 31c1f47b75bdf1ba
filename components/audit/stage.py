"""Report on the data, drop the rows that must not be trained on, and say whether training may start.

Reads:
    artifacts/download/{*.tar, *.parquet, texts}, artifacts/recaption/{captions, scores, image_embeddings}
    inputs/<download.inputs>/: heads, a reference's summary and an earlier run's embeddings of captions, where
        params name them
Writes:
    artifacts/audit/kept/00000.parquet      keys of the shard that go on
    artifacts/audit/dropped/00000.parquet   the others, each with reason, figure and the key it is like
    artifacts/audit/verdict.json            every gate with figure, limit, verdict and samples
    artifacts/audit/summary.json            distributions, which a later run can be compared with
    artifacts/audit/report.html, report.json, gallery.html
    metrics/audit.json
"""

from __future__ import annotations

import logging
from typing import Any

from components.audit.caption_figures import Table, caption_figures
from components.audit.captions import Captions
from components.audit.curation.dropped import Dropped
from components.audit.curation.score_table import read_scored
from components.audit.curation.select import Curator
from components.audit.drift import drift_gates, read_reference
from components.audit.gallery import ShardFiles, chosen_keys, write_gallery
from components.audit.gates import gates, kept_gate
from components.audit.host_stats import HostStats, read_attempts
from components.audit.images import Images
from components.audit.keys import write_shard_keys
from components.audit.near_duplicates.comparison import Alike
from components.audit.near_duplicates.duplicates import find_duplicates
from components.audit.near_duplicates.fingerprints import read_fingerprints
from components.audit.report import write_report
from components.audit.report_rows import described_rows
from components.audit.summary import summary_tree
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

log = logging.getLogger("llm2clip")


def run(params: Params, env: Environment) -> None:
    """Run the stage."""
    layout, limits = Layout(env.work_store), params.audit
    download, inputs = layout.artifact("download"), layout.inputs(params.download.inputs)
    work = layout.work("audit")
    check_seen_by_dvc(inputs, paths_of_audit(limits))
    before = read_reference(inputs / limits.reference.summary) if limits.reference else {}
    files = read_manifest(download)
    shards = [entry for entry in files if entry.is_shard]
    processes = env.processes or usable_cores()
    fingerprints = read_fingerprints(download, shards, work, processes)
    images = fingerprints.images
    alike = Alike(limits.near_duplicate_bits, limits.near_duplicate_difference)
    duplicates = find_duplicates(fingerprints, alike, work, processes)
    captions = _captions(layout, files, images, limits.samples, processes)
    scored = read_scored(layout.artifact("recaption"), images)
    attempts = read_attempts(
        [(download / entry.place).with_suffix(".parquet") for entry in shards], limits.samples
    )
    curator = Curator(images, duplicates.leaked if limits.drop_leaked else {})
    curator.curate(limits.curation, scored, layout, inputs)
    dropped = curator.dropped

    summary = summary_tree(images, captions, scored, dropped.rows)
    found = [
        *gates(images, duplicates, captions, attempts, limits),
        *([kept_gate(images, dropped, limits)] if limits.curation.is_asked else []),
        *(drift_gates(summary["features"], before, limits.reference, limits) if limits.reference else []),
    ]
    verdict = verdict_tree(found, limits)
    rows = _count(params, layout, images, captions.texts, dropped)
    with output(layout, "audit") as out:
        write_shard_keys(out.folder, images, dropped)
        write_json(out.folder / "verdict.json", verdict)
        write_json(out.folder / "summary.json", summary)
        described = described_rows(images, duplicates, dropped, captions, scored, limits.report_rows)
        write_report(described, verdict, rows.figures()["rejected"], out.folder)
        chosen = chosen_keys(images, dropped, limits.gallery_rows)
        shown = [(_files(layout, entry), chosen[entry.name]) for entry in shards if entry.name in chosen]
        write_gallery(out.folder / "gallery.html", shown, verdict["verdict"])
        if not verdict["passed"]:
            replace_folder(out.folder, work / "failed")
            raise GateError(explain(found, limits, work / "failed" / "report.html"))
    remove(work / "failed")
    for gate in verdict["unknown"]:
        log.warning("audit: %s is unknown; audit.unknown_passes lets it pass", gate)
    counts = {**rows.figures(), "images": len(images), "texts": captions.texts}
    write_metrics(layout, "audit", {**counts, **_figures(limits, verdict, captions, attempts)})


def _count(params: Params, layout: Layout, images: Images, texts: int, dropped: Dropped) -> Rows:
    """Return the account of all rows, those of text among them; none but images are dropped."""
    rows = Rows()
    counts = dropped.counts()
    rows.accept(len(images) - sum(counts.values()) + texts)
    for reason, count in counts.items():
        rows.reject(reason, count, dropped.first(reason))
    rows.check(1.0, "audit", params, layout, given=len(images) + texts)
    return rows


def _captions(layout: Layout, files: list[Entry], images: Images, samples: int, processes: int) -> Captions:
    """Return the figures of all captions: those of images as recaption left them, the others as they came.

    Args:
        layout: Of the project.
        files: Of the manifest of download.
        images: All.
        samples: Captions shown of those that splits share.
        processes: How many to work with.
    """
    download, recaption, work = (
        layout.artifact("download"),
        layout.artifact("recaption"),
        layout.work("audit"),
    )
    of_images = [(recaption, entry) for entry in read_manifest(recaption, "captions/")]
    of_texts = [(download, entry) for entry in files if entry.uri.startswith("texts/")]
    named = [(folder / entry.uri, entry.sha256) for folder, entry in (*of_images, *of_texts)]
    shards = [*(entry.name for _, entry in of_images), *(None for _ in of_texts)]
    made = caption_figures(named, work, processes)
    tables = [Table(*one) for one in zip((path for path, _ in named), made, shards, strict=True)]
    return Captions(tables, images, samples, work / "digests")


def _files(layout: Layout, entry: Entry) -> ShardFiles:
    name, recaption = f"{entry.name}.parquet", layout.artifact("recaption")
    captions, scores = recaption / "captions" / name, recaption / SCORES_FOLDER / name
    return ShardFiles(layout.artifact("download"), entry, layout.work("audit"), captions, scores)


def _figures(
    limits: Audit, verdict: dict[str, Any], captions: Captions, attempts: HostStats
) -> dict[str, Any]:
    overlaps: dict[str, dict[str, float]] = {}
    for (split, kind), overlap in captions.overlaps().items():
        overlaps.setdefault(split, {})[kind] = overlap.share
    return {
        "verdict": verdict["verdict"],
        "gates": {gate["name"]: gate["figure"] for gate in verdict["gates"]},
        "hosts": {
            "count": len(attempts.host_rows),
            "worst": attempts.worst_hosts(limits.min_host_rows, limits.samples),
        },
        "mean_words": captions.mean_words(),
        "repeated_captions": {column: share for column, (share, _) in captions.repeated_shares().items()},
        "caption_overlap": overlaps,
    }
