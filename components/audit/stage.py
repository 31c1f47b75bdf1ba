"""Report on the data, drop the rows that must not be trained on, and say whether training may start.

Reads:
    artifacts/download/{*.tar, *.parquet, texts}, artifacts/recaption/captions
Writes:
    artifacts/audit/kept/00000.parquet      keys of the shard that go on
    artifacts/audit/dropped/00000.parquet   the others, each with its reason and the key it is like
    artifacts/audit/verdict.json            every gate with figure, limit, verdict and samples
    artifacts/audit/report.html, report.json
    metrics/audit.json
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.audit.captions import Captions, read_all_captions
from components.audit.described import described_rows
from components.audit.duplicates import find_duplicates
from components.audit.fingerprints import FINGERPRINTS, FORMAT_VERSION, write_fingerprints
from components.audit.gates import Images, explain, gates, verdict_tree
from components.audit.report import write_report
from components.faults import GateFault
from components.running.output import output, write_metrics
from components.running.progress import Progress
from components.running.rows import Rows
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import content_key, remove, replace_folder, write_json
from components.storage.layout import Layout
from components.storage.manifest import Entry, read_manifest
from components.storage.pieces import piece
from components.storage.shards import read_pairs
from components.storage.side_tables import read_table, write_keys, write_table

DROPPED = pa.schema([("key", pa.string()), ("reason", pa.string()), ("like", pa.string())])
log = logging.getLogger("llm2clip")


def run(params: Params, env: Environment) -> None:
    """Run the stage."""
    layout, limits = Layout(env.work_store), params.audit
    download, work = layout.artifact("download"), layout.work("audit")
    files = read_manifest(download)
    shards = [entry for entry in files if entry.uri.endswith(".tar")]
    tables = _fingerprints(download, shards, work)
    table = pa.concat_tables([FINGERPRINTS.empty_table(), *tables])
    images = Images(table.column("key").to_pylist(), table.column("split").to_pylist())
    duplicates = find_duplicates(table, limits.near_duplicate_bits, limits.near_duplicate_difference)
    captions = read_all_captions(_caption_files(layout, download, files))
    statuses = _statuses(download, shards)

    found = gates(images, duplicates, captions, statuses, limits)
    verdict = verdict_tree(found, limits)
    dropped = duplicates.leaked if limits.drop_leaked else {}
    rows = Rows()
    with output(layout, "audit") as out:
        start = 0
        for entry, part in zip(shards, tables, strict=True):
            numbers = range(start, start + len(part))
            _write_keys(out.folder, entry.name, images, numbers, dropped)
            start += len(part)
        texts = len(captions.split_of.keys() - set(images.keys))
        rows.accept(len(images.keys) - len(dropped) + texts)
        rows.reject("leaked", len(dropped))
        rows.check(1.0, "audit", given=len(images.keys) + texts)
        write_json(out.folder / "verdict.json", verdict)
        described = described_rows(table, duplicates, dropped, captions, limits.report_rows)
        write_report(described, verdict, out.folder)
        if not verdict["passed"]:
            replace_folder(out.folder, work / "failed")
            raise GateFault(explain(found, limits, work / "failed" / "report.html"))
    remove(work / "failed")
    for gate in verdict["unknown"]:
        log.warning("audit: %s is unknown, there is too little data; audit.unknown_passes lets it pass", gate)
    write_metrics(layout, "audit", {**rows.figures(), **_figures(verdict, captions, len(images.keys), texts)})


def _fingerprints(download: Path, shards: list[Entry], work: Path) -> list[pa.Table]:
    """Return each shard's fingerprints, made unless an earlier run has."""
    progress = Progress(work, "audit", sum(entry.rows or 0 for entry in shards), "images")
    tables = []
    for entry in shards:
        key = content_key([FORMAT_VERSION, entry.sha256])

        def make(folder: Path, shard: Entry = entry) -> None:
            write_fingerprints(read_pairs(download, shard, work), folder / "fingerprints.parquet")

        folder = piece(work / "fingerprints", key, make)
        tables.append(read_table(folder / "fingerprints.parquet", FINGERPRINTS))
        progress.advance(entry.rows or 0)
    return tables


def _caption_files(layout: Layout, download: Path, files: list[Entry]) -> list[Path]:
    """Return the caption tables: rows with an image as recaption left them, the others as they came."""
    recaption = layout.artifact("recaption")
    texts = [download / entry.uri for entry in files if entry.uri.startswith("texts/")]
    return [recaption / entry.uri for entry in read_manifest(recaption, "captions/")] + texts


def _statuses(download: Path, shards: list[Entry]) -> list[str]:
    """Return what became of each image that download tried to get."""
    schema = pa.schema([("status", pa.string())])
    ledgers = [(download / entry.place).with_suffix(".parquet") for entry in shards]
    return [status for path in ledgers for status in read_table(path, schema).column("status").to_pylist()]


def _write_keys(folder: Path, shard: str, images: Images, numbers: range, dropped: dict[int, int]) -> None:
    kept = [images.keys[number] for number in numbers if number not in dropped]
    lost = [
        {"key": images.keys[number], "reason": "leaked", "like": images.keys[dropped[number]]}
        for number in numbers
        if number in dropped
    ]
    write_keys(folder / "kept" / f"{shard}.parquet", kept)
    write_table(folder / "dropped" / f"{shard}.parquet", pa.Table.from_pylist(lost, DROPPED))


def _figures(verdict: dict[str, Any], captions: Captions, images: int, texts: int) -> dict[str, Any]:
    return {
        "images": images,
        "texts": texts,
        "verdict": verdict["verdict"],
        "gates": {gate["name"]: gate["figure"] for gate in verdict["gates"]},
        "mean_words": captions.mean_words(),
        "repeated_captions": {column: share for column, (share, _) in captions.repeated_shares().items()},
        "test_captions_in_train": captions.test_in_train_shares(),
    }
