"""Download images and captions of all sources: images of limited size in shards, captions in side tables.

Reads:
    inputs/<download.inputs>/ (tables and folders named in params), the URLs in them, and remote shards named
    in params.

Writes:
    artifacts/download/shards/00000.tar (`<key>.jpg`, `.txt`, `.json`), 00000.parquet (the ledger) and
    00000_stats.json; captions/00000.parquet and images/00000.parquet (key, split, sha256, labels) of each
    shard; artifacts/download/texts/00000.parquet (captions of rows without images);
    artifacts/download/manifest.json; metrics/download.json. The tars go to download.data_root if params set
    it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from math import ceil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.download.download_stats import DownloadStats
from components.download.remote_shards import bring_shards
from components.download.shard import DRAWN_BY, DownloadShard
from components.download.survey import each_url_once, groups, image_rows, survey, text_rows
from components.running.jobs import Modules
from components.running.output import output, write_metrics
from components.running.progress import Progress
from components.running.rows import Rows
from components.running.workers import finished_pieces, usable_cores
from components.settings.download import Download
from components.settings.environment import Environment
from components.settings.params import Params
from components.sources.input_paths import check_seen_by_dvc, paths_of_download
from components.sources.rows import Rejection, Row
from components.sources.source_requirements import Inputs
from components.storage.atomic import new_file, remove
from components.storage.bulk import SHARDS, open_data_root
from components.storage.layout import Layout
from components.storage.result_cache import put_files
from components.storage.shards import TABLE_FOLDERS
from components.storage.side_tables import CAPTIONS

STAGE = "download"
MODULES = Modules(imported=("components.download.shard_fetcher", "webdataset"), blocked_imports=("pandas",))
GROUP_ROWS = 10_000


def run(params: Params, env: Environment) -> None:
    """Run the stage."""
    layout, download = Layout(env.work_store), params.download
    work = layout.work(STAGE)
    inputs = Inputs(layout.inputs(download.inputs), work / "brought")
    check_seen_by_dvc(inputs.folder, paths_of_download(download))
    if download.data_root:
        open_data_root(download.data_root)  # fails before any work if it cannot be written
    bring_shards(download, inputs, work)
    known = survey(download, inputs, params.seed, work / "survey")
    progress = Progress(work, STAGE, known.image_rows, "images")
    stats = DownloadStats(params, layout)
    rows = stats.noted(each_url_once(image_rows(download, inputs, params.seed), known.repeated_urls))
    processes = min(env.processes or usable_cores(), ceil(known.image_rows / download.shard_rows))
    store = work / "shards"
    jobs = _jobs(rows, download, store, processes)
    shards = 0

    with output(layout, STAGE) as out:
        with finished_pieces(jobs, processes, progress, MODULES, store) as finished:
            for shard in finished:
                name = shard_name(shards)
                out.rows[f"shards/{name}.tar"] = stats.add(shard, name)
                out.known += put_files(shard, out.folder, SHARDS, leave=(DRAWN_BY,), beside=TABLE_FOLDERS)
                shards += 1
        stats.check(given=known.image_rows)

        texts, text_splits = write_texts(
            out.folder / "texts" / "00000.parquet", text_rows(download, inputs, params.seed)
        )
        if known.text_rows:
            texts.check(download.max_reject_share, STAGE, params, layout, given=known.text_rows)

    remove(inputs.brought)
    total = Rows()
    for part in (stats.rows, texts):
        total.add(part.figures())
    text_figures = {**texts.figures(), "splits": dict(text_splits)}
    figures = {"images": stats.figures(), "texts": text_figures, "shards": shards}
    write_metrics(layout, STAGE, {**total.figures(), **figures})


def _jobs(
    rows: Iterator[Row | Rejection], download: Download, store: Path, processes: int
) -> Iterator[DownloadShard]:
    """Yield a job for each shard; each process gets its share of the connections that params allow."""
    fetch = download.fetch
    share = {
        "connections": max(1, fetch.connections // processes),
        "connections_per_host": max(1, fetch.connections_per_host // processes),
    }
    process_params = download.model_copy(update={"fetch": fetch.model_copy(update=share)})
    for number, group in enumerate(groups(rows, download.shard_rows)):
        yield DownloadShard(shard_name(number), group, process_params, store)


def shard_name(number: int) -> str:
    """Return the name of a shard: `00003`."""
    return f"{number:05d}"


def write_texts(path: Path, rows: Iterable[Row | Rejection]) -> tuple[Rows, Counter[str]]:
    """Write the captions of text rows, ten thousand rows in memory at a time.

    Returns:
        The count of rows, and the number of accepted rows per split.
    """
    count = Rows()
    splits: Counter[str] = Counter()
    with new_file(path) as part, pq.ParquetWriter(part, CAPTIONS, compression="zstd") as writer:
        for group in groups(rows, GROUP_ROWS):
            captions = []
            for row in group:
                if isinstance(row, Rejection):
                    count.reject(row.reason, first=row.described())
                    continue
                count.accept()
                splits[row.split] += 1
                captions += [asdict(caption) for caption in row.captions]
            writer.write_table(pa.Table.from_pylist(captions, schema=CAPTIONS))
    return count, splits
