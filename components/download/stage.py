"""Download images and captions of all sources: images of limited size in shards, captions in side tables.

Reads:
    inputs/<download.inputs>/ (tables and folders named in params), the URLs in them, and remote shards named
    in params; the pictures in the work store (docs/identity.md).

Writes:
    artifacts/download/shards/00000.tar (`<key>.jpg`, `.txt`, `.json`), 00000.parquet (the ledger) and
    00000_stats.json, as they were when fetched; of the rows in use captions/00000.parquet,
    images/00000.parquet (key, split, sha256, labels) and rows/00000.parquet (the ledger as of today);
    rows/rejected.parquet (rows that the list rules out); texts/00000.parquet (captions of rows without
    images); manifest.json; metrics/download.json. The tars go to download.data_root if params set it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.download.download_stats import DownloadStats
from components.download.ledger import FAILED_TO_DOWNLOAD, FetchResult, entry_of, write_ledger
from components.download.matching import REJECTED, Matched, NewRow, match, refuse_equal_keys
from components.download.picture_store import SETTINGS, PictureStore, stats_of_shard
from components.download.remote_shards import bring_shards
from components.download.shard import DownloadShard
from components.download.tables import placeholders_in, write_tables
from components.errors import ConfigurationError
from components.running.jobs import Modules
from components.running.output import Output, output, write_metrics
from components.running.progress import Progress
from components.running.rows import Rows
from components.running.workers import finished_pieces, usable_cores
from components.settings.download import Download
from components.settings.environment import Environment
from components.settings.params import Params
from components.settings.sources import SceneTexts, TextTable, Weighted
from components.sources.input_paths import check_seen_by_dvc, paths_of_download
from components.sources.rows import Rejection, Row, mixed, read_rows
from components.sources.source_requirements import Inputs
from components.storage.atomic import new_file, remove
from components.storage.bulk import SHARDS, open_data_root
from components.storage.computed import code_of
from components.storage.duplicate_counter import DuplicateCounter
from components.storage.layout import Layout
from components.storage.result_cache import put_files
from components.storage.shards import ROWS
from components.storage.side_tables import CAPTIONS
from components.storage.spill import HashSorter, NumberSorter

STAGE = "download"
MODULES = Modules(imported=("components.download.shard_fetcher", "webdataset"), blocked_imports=("pandas",))
GROUP_ROWS = 10_000


def run(params: Params, env: Environment) -> None:
    """Run the stage."""
    layout, download = Layout(env.work_store), params.download
    work = layout.work(STAGE)
    inputs = Inputs(layout.inputs(download.inputs), work / "brought")
    check_seen_by_dvc(inputs.folder, paths_of_download(download))
    root = open_data_root(download.data_root) if download.data_root else None  # fails before any work
    bring_shards(download, inputs, work)
    store, stats = PictureStore(work, download, root), DownloadStats(params, layout)
    remove(work / "keys")
    keys = DuplicateCounter(work / "keys")
    matched = match(
        stats.noted(_rows(download, inputs, params.seed, texts=False)),
        store,
        keys,
        work / "matching",
        code_of(work, STAGE, "scenes"),
        download.fetch.max_bytes,
        download.shard_rows,
    )
    if not matched.given:
        raise ConfigurationError(
            "download.sources gives no image row; expected at least one; "
            "add a source of images, such as a url_list"
        )
    texts, text_count = _texts(_rows(download, inputs, params.seed, texts=True), keys, work / "matching")
    refuse_equal_keys(matched, texts, keys)
    remove(work / "keys")
    _fetch(matched, store, download, env, work, stats)
    with output(layout, STAGE) as out:
        shards = _put_shards(matched, store, download.max_urls_per_body, work, out, stats)
        stats.check(given=matched.given - matched.joined, store=store)
        text_splits = write_texts(out.folder / "texts" / "00000.parquet", texts)
        if text_count.rows_in:
            text_count.check(download.max_reject_share, STAGE, params, layout)
    store.settle()
    remove(inputs.brought)
    remove(work / "matching")
    total = Rows()
    for part in (stats.rows, text_count):
        total.add(part.figures())
    figures = {
        "images": {**stats.figures(), "joined": matched.joined},
        "texts": {**text_count.figures(), "splits": dict(text_splits)},
        "shards": shards,
    }
    write_metrics(layout, STAGE, {**total.figures(), **figures})


def _rows(params: Download, inputs: Inputs, seed: int, *, texts: bool) -> Iterator[Row | Rejection]:
    """Yield the rows of all sources of images, or of all sources of texts, in params order.

    Sources with weights come last, mixed in proportion to them, so that each shard holds the mixture.
    """
    weighted: list[Iterator[Row | Rejection]] = []
    weights: list[float] = []
    for source in params.sources:
        if isinstance(source, TextTable | SceneTexts) != texts:
            continue
        rows = read_rows(source, inputs.of(source), seed)
        if isinstance(source, Weighted) and source.weight is not None:
            weighted.append(rows)
            weights.append(source.weight)
        else:
            yield from rows
    yield from mixed(weighted, weights)


def _texts(
    rows: Iterable[Row | Rejection], keys: DuplicateCounter, work: Path
) -> tuple[NumberSorter[Row], Rows]:
    """Return the rows without images, equal ones once, and their count."""
    by_key: HashSorter[tuple[int, Row]] = HashSorter(work / "texts_by_key")
    texts: NumberSorter[Row] = NumberSorter(work / "texts")
    count = Rows()
    for number, row in enumerate(rows):
        if isinstance(row, Rejection):
            count.reject(row.reason, first=row.described())
        else:
            by_key.add(row.key, (number, row))
    for _, group in groupby(by_key, key=itemgetter(0)):
        seen: list[Row] = []
        for _, (number, row) in group:
            if row in seen:
                count.reject("duplicate_text")
                continue
            seen.append(row)
            count.accept()
            keys.add(row.key)
            texts.add(number, row)
    by_key.discard()
    return texts, count


def _fetch(
    matched: Matched,
    store: PictureStore,
    download: Download,
    env: Environment,
    work: Path,
    stats: DownloadStats,
) -> None:
    """Fetch the new shards; a finished one joins the store."""
    planned = store.planned()
    if not planned:
        return
    progress = Progress(work, STAGE, sum(map(len, planned.values())), "images")
    processes = min(env.processes or usable_cores(), len(planned))
    fetch = download.fetch
    share = {
        "connections": max(1, fetch.connections // processes),
        "connections_per_host": max(1, fetch.connections_per_host // processes),
    }
    process_params = download.model_copy(update={"fetch": fetch.model_copy(update=share)})
    jobs = (
        DownloadShard(name, _in_order(matched, name, lines), process_params, store.settings(), store.folder)
        for name, lines in planned.items()
    )
    with finished_pieces(jobs, processes, progress, MODULES, store.folder) as finished:
        for folder in finished:
            stats.came(folder, store)


def _in_order(matched: Matched, name: str, planned: Sequence[tuple[str, str]]) -> list[NewRow]:
    """Return the rows of a new shard in the order of its plan, which a killed run may have made."""
    order = {line: number for number, line in enumerate(planned)}
    return sorted(matched.new.read(name), key=lambda wanted: order[wanted.origin, wanted.row.key])


def _put_shards(
    matched: Matched, store: PictureStore, limit: int, work: Path, out: Output, stats: DownloadStats
) -> int:
    """Put every shard with a living row into the output, with their tables; return their number."""
    planned = store.planned()

    def living(name: str) -> list[tuple[Row, int]]:
        new = _in_order(matched, name, planned[name]) if name in planned else []
        return [*matched.living.read(name), *((wanted.row, line) for line, wanted in enumerate(new))]

    names = sorted({*matched.living.names(), *planned}, key=lambda name: (len(name), name))
    placeholders = placeholders_in(
        {store.folder / name: [line for _, line in living(name)] for name in names},
        limit,
        stats.url_sources,
        work / "matching" / "hashes",
    )
    for name in names:
        folder = store.put_away(name)  # of an earlier run it may lie here still
        lines = write_tables(out.folder, folder, living(name), placeholders)
        stats.add(folder, lines)
        out.known += put_files(folder, out.folder, SHARDS, leave=(SETTINGS,))
        out.rows[f"{SHARDS}/{name}.tar"] = int(stats_of_shard(folder)["successes"])
    rejected = list(matched.rejected.read(REJECTED))
    stats.reject(rejected)
    entries = [entry_of(row, FetchResult(FAILED_TO_DOWNLOAD, row.reason)) for row in rejected]
    write_ledger(out.folder / ROWS / f"{REJECTED}.parquet", entries)
    return len(names)


def write_texts(path: Path, rows: Iterable[Row]) -> Counter[str]:
    """Write the captions of text rows, ten thousand rows in memory at a time.

    Returns:
        The number of rows per split.
    """
    splits: Counter[str] = Counter()
    iterator = iter(rows)
    with new_file(path) as part, pq.ParquetWriter(part, CAPTIONS, compression="zstd") as writer:
        while group := list(islice(iterator, GROUP_ROWS)):
            splits.update(row.split for row in group)
            captions = [asdict(caption) for row in group for caption in row.captions]
            writer.write_table(pa.Table.from_pylist(captions, schema=CAPTIONS))
    return splits
