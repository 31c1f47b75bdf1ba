"""Brings every source's rows into one form: images of bounded size in shards, captions beside them.

Reads:
    inputs/<download.inputs>/ (tables and folders that params name), and the urls in them.

Writes:
    artifacts/download/shards/00000.tar (`<key>.jpg`, `.txt`, `.json`), 00000.parquet (the ledger) and
    00000_stats.json; artifacts/download/texts/00000.parquet (captions of rows without images);
    artifacts/download/manifest.json; metrics/download.json. The tars go to download.data_root where params
    name one.
"""

from __future__ import annotations

from pathlib import Path

from components.download.shard import make_shard, shard_key
from components.download.survey import each_url_once, groups, image_rows, survey, text_rows
from components.download.tally import Tally
from components.download.texts import write_texts
from components.running.output import output, write_metrics
from components.running.progress import Progress
from components.running.rows import Rows
from components.settings.download import Download
from components.settings.environment import Environment
from components.settings.params import Params
from components.sources.rows import Rejection, Row
from components.storage.atomic import read_json
from components.storage.bucket import Bucket
from components.storage.bulk import forget_lost, keep_remote, open_data_root
from components.storage.layout import Layout
from components.storage.pieces import piece, put_files

STAGE = "download"


def run(params: Params, env: Environment) -> None:
    """Run the stage."""
    layout, download = Layout(env.work_store), params.download
    inputs, work = layout.inputs(download.inputs), layout.work(STAGE)
    known = survey(download, inputs, params.seed)
    progress = Progress(work, STAGE, known.image_rows, "images")
    tally = Tally(download)
    shards = 0
    root = open_data_root(download.data_root) if download.data_root else None

    with output(layout, STAGE) as out:
        rows = each_url_once(image_rows(download, inputs, params.seed), known.repeated_urls)
        for shard_rows in groups(rows, download.shard_rows):
            name = f"{shards:05d}"
            finished = _shard(name, shard_rows, download, work / "shards", root, tally, progress)
            out.remote += put_files(finished, out.folder / "shards")
            out.rows[f"shards/{name}.tar"] = tally.add(finished, name)
            shards += 1
        tally.check(given=known.image_rows)

        texts, text_splits = write_texts(
            out.folder / "texts" / "00000.parquet", text_rows(download, inputs, params.seed)
        )
        if known.text_rows:
            texts.check(download.max_reject_share, STAGE, given=known.text_rows)

    total = Rows()
    for part in (tally.rows, texts):
        total.add(part.figures())
    images = {**tally.rows.figures(), "splits": dict(tally.splits), "sources": dict(tally.sources)}
    figures = {"images": images, "texts": {**texts.figures(), "splits": dict(text_splits)}, "shards": shards}
    write_metrics(layout, STAGE, {**total.figures(), **figures})


def _shard(
    name: str,
    rows: list[Row | Rejection],
    download: Download,
    store: Path,
    root: Bucket | None,
    tally: Tally,
    progress: Progress,
) -> Path:
    """Return the folder of a finished shard, made now or by an earlier run."""
    done_before = progress.done

    def make(folder: Path) -> None:
        make_shard(folder, name, rows, download, progress.advance)
        tally.refuse_dead_network(read_json(folder / f"{name}_stats.json"))

    key = shard_key(name, rows, download)
    forget_lost(store / key, root)
    finished = piece(store, key, make)
    if root:
        keep_remote(finished, root)
    if progress.done == done_before:
        progress.advance(len(rows), f"shard {name} kept from an earlier run")
    return finished
