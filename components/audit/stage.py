"""Report on the data, drop the rows that must not be trained on, and say whether training may start.

Reads:
    artifacts/download/{*.tar, *.parquet, texts}, artifacts/recaption/{captions, scores, image_embeddings}
    inputs/<download.inputs>/: heads and a reference's summary, where params name them
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
from collections import Counter
from pathlib import Path
from typing import Any

from components.audit.attempts import Attempts, read_attempts
from components.audit.captions import Captions, read_all_captions
from components.audit.curation import Curator, Drop
from components.audit.described import described_rows
from components.audit.drift import drift_gates, read_reference
from components.audit.duplicates import find_duplicates
from components.audit.fingerprints import read_fingerprints
from components.audit.gallery import ShardFiles, chosen_keys, write_gallery
from components.audit.gates import Images, gates, kept_gate
from components.audit.keys import write_shard_keys
from components.audit.report import write_report
from components.audit.scored import read_scored
from components.audit.summary import summary_tree
from components.audit.verdict import explain, verdict_tree
from components.faults import GateFault
from components.running.output import output, write_metrics
from components.running.rows import Rows
from components.settings.audit import Audit
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import remove, replace_folder, write_json
from components.storage.layout import Layout
from components.storage.manifest import Entry, read_manifest
from components.storage.scores import SCORES_FOLDER

log = logging.getLogger("llm2clip")


def run(params: Params, env: Environment) -> None:
    """Run the stage."""
    layout, limits = Layout(env.work_store), params.audit
    download, recaption = layout.artifact("download"), layout.artifact("recaption")
    inputs, work = layout.inputs(params.download.inputs), layout.work("audit")
    before = read_reference(inputs / limits.reference.summary) if limits.reference else {}
    files = read_manifest(download)
    shards = [entry for entry in files if entry.uri.endswith(".tar")]
    table = read_fingerprints(download, shards, work)
    images = Images(table.column("key").to_pylist(), table.column("split").to_pylist())
    duplicates = find_duplicates(table, limits.near_duplicate_bits, limits.near_duplicate_difference)
    captions = read_all_captions(_caption_files(recaption, download, files))
    scored = read_scored(recaption, images.keys)
    ledgers = [(download / entry.place).with_suffix(".parquet") for entry in shards]
    attempts = read_attempts(ledgers, limits.samples)
    curator = Curator(images, duplicates.leaked if limits.drop_leaked else {})
    curator.curate(limits.curation, scored, layout, inputs)
    dropped = curator.dropped

    summary = summary_tree(table, captions, scored, dropped)
    found = gates(images, duplicates, captions, attempts, limits)
    if limits.curation.is_asked:
        found.append(kept_gate(images, dropped, limits))
    if limits.reference:
        found += drift_gates(summary["features"], before, limits.reference, limits)
    verdict = verdict_tree(found, limits)
    texts = len(captions.split_of.keys() - set(images.keys))
    rows = _count(len(images.keys), texts, dropped)
    with output(layout, "audit") as out:
        write_shard_keys(out.folder, shards, images, dropped)
        write_json(out.folder / "verdict.json", verdict)
        write_json(out.folder / "summary.json", summary)
        described = described_rows(table, duplicates, dropped, captions, scored, limits.report_rows)
        write_report(described, verdict, rows.figures()["rejected"], out.folder)
        write_gallery(
            out.folder / "gallery.html",
            [_files(download, recaption, entry, work) for entry in shards],
            chosen_keys(images, limits.gallery_rows),
            {images.keys[row]: drop for row, drop in dropped.items()},
            verdict["verdict"],
        )
        if not verdict["passed"]:
            replace_folder(out.folder, work / "failed")
            raise GateFault(explain(found, limits, work / "failed" / "report.html"))
    remove(work / "failed")
    for gate in verdict["unknown"]:
        log.warning("audit: %s is unknown; audit.unknown_passes lets it pass", gate)
    counts = {**rows.figures(), "images": len(images.keys), "texts": texts}
    write_metrics(layout, "audit", {**counts, **_figures(limits, verdict, captions, attempts)})


def _count(images: int, texts: int, dropped: dict[int, Drop]) -> Rows:
    """Return the account of all rows, those of text among them; none but images are dropped."""
    rows = Rows()
    rows.accept(images - len(dropped) + texts)
    for reason, count in Counter(drop.reason for drop in dropped.values()).items():
        rows.reject(reason, count)
    rows.check(1.0, "audit", given=images + texts)
    return rows


def _caption_files(recaption: Path, download: Path, files: list[Entry]) -> list[Path]:
    """Return the caption tables: rows with an image as recaption left them, the others as they came."""
    texts = [download / entry.uri for entry in files if entry.uri.startswith("texts/")]
    return [recaption / entry.uri for entry in read_manifest(recaption, "captions/")] + texts


def _files(download: Path, recaption: Path, entry: Entry, work: Path) -> ShardFiles:
    name = f"{entry.name}.parquet"
    captions, scores = recaption / "captions" / name, recaption / SCORES_FOLDER / name
    return ShardFiles(download, entry, work, captions, scores)


def _figures(
    limits: Audit, verdict: dict[str, Any], captions: Captions, attempts: Attempts
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
