"""Memory of captions and cached embeddings in tune_llm and train_clip, and the wait for a batch.

    python -m bench.text_side [--rows 100000 400000] [--captions 3] [--dimensions 1024]

Captions of twelve random words, and random vectors, are written in shards as recaption and embed_captions
leave them. One process reads captions as tune_llm does. Another reads them as train_clip does, joins
captions and vectors, computes the adapter's statistics and draws batches; then it draws the same batches from
a copy in memory. Memory is counted without the pages of mapped files, which the system can take back at any
time. The last lines are the memory that one more caption takes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from bench.audit import captions_table
from bench.measuring import KIBIBYTE, Peak, say
from components.ml.adapter import AdapterConfig, TextAdapter
from components.running.rows import Rows
from components.storage.audited_rows import KeptShard, kept_shards
from components.storage.embeddings import EMBEDDED_CAPTIONS, read_embeddings, write_embeddings
from components.storage.layout import Layout
from components.storage.manifest import write_manifest
from components.storage.mapped_rows import MappedRows
from components.storage.side_tables import CAPTION_TEXTS, write_keys, write_table
from components.train_clip.examples import Examples
from components.tune_llm.caption_rows import read_caption_rows

ROOT = Path(__file__).parents[1]
STAGES = ("tune_llm", "train_clip")
SHARD_ROWS = 10_000
BATCH, BATCHES = 4096, 20


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 400_000])
    parser.add_argument("--captions", type=int, default=3, help="of an image")
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument(
        "--held", nargs=2, metavar=("STAGE", "FOLDER"), help="only measure this stage in this folder"
    )
    options = parser.parse_args(arguments)
    if options.held:
        stage, folder = options.held
        _measure_stage(stage, Layout(Path(".work"), Path(folder)), _columns(options.captions))
        return
    if invalid := [rows for rows in options.rows if rows % SHARD_ROWS]:
        parser.error(f"--rows {invalid[0]}; expected multiples of {SHARD_ROWS}, which a shard has")
    peaks: dict[str, list[int]] = {stage: [] for stage in STAGES}
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as name:
            _write(Layout(Path(".work"), Path(name)), rows, options.captions, options.dimensions)
            for stage in STAGES:
                figures = _run_stage(stage, Path(name), options.captions)
                peaks[stage].append(figures["peak"])
                say(
                    f"{stage}, {rows} images, {options.captions} captions each: "
                    f"{figures['peak'] / 1e6:.0f} MB at most in {figures['seconds']:.0f} s, "
                    f"{figures['held'] / 1e6:.0f} MB in the end"
                )
        vectors = 2 * rows * options.captions * options.dimensions
        say(
            f"{BATCH} of {vectors / 1e9:.2f} GB of vectors: {figures['mapped_ms']:.1f} ms, of a copy "
            f"in memory {figures['copied_ms']:.1f} ms"
        )
    for stage, stage_peaks in peaks.items():
        for (rows, few), (more, many) in pairwise(zip(options.rows, stage_peaks, strict=True)):
            slope = (many - few) / (more - rows) / options.captions
            say(f"{stage}: {slope:.0f} bytes of peak memory a caption from {rows} to {more}")


def _columns(captions: int) -> list[str]:
    return [f"c{number}" for number in range(captions)]


def _run_stage(stage: str, folder: Path, captions: int) -> dict[str, Any]:
    program = [sys.executable, "-m", "bench.text_side", "--captions", str(captions)]
    command = [*program, "--held", stage, str(folder)]
    result = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    figures: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return figures


def _write(layout: Layout, rows: int, captions: int, dimensions: int) -> None:
    """Write the artifacts of the stages before train_clip, without images."""
    draw = np.random.default_rng(7)
    columns = _columns(captions)
    for number, start in enumerate(range(0, rows, SHARD_ROWS)):
        name, keys = f"{number:05d}", [f"images_{row:012d}" for row in range(start, start + SHARD_ROWS)]
        table = captions_table(draw, keys, ["train"] * SHARD_ROWS, captions)
        write_table(layout.artifact("recaption") / "captions" / f"{name}.parquet", table)
        write_keys(layout.artifact("audit") / "kept" / f"{name}.parquet", keys)
        shard = layout.artifact("download") / "shards" / f"{name}.tar"
        shard.parent.mkdir(parents=True, exist_ok=True)
        shard.write_bytes(name.encode())
        for column in columns:
            lines = {
                "key": keys,
                "split": ["train"] * SHARD_ROWS,
                "column": [column] * SHARD_ROWS,
                "language": ["en"] * SHARD_ROWS,
                "number": pa.array([0] * SHARD_ROWS, pa.int32()),
                "row": pa.array(range(SHARD_ROWS), pa.int64()),
            }
            vectors = torch.from_numpy(draw.standard_normal((SHARD_ROWS, dimensions), np.float32))
            folder = layout.artifact("embed_captions") / "tuned" / column
            write_embeddings(folder, name, {"llm": "none"}, pa.table(lines, EMBEDDED_CAPTIONS), vectors)
    for stage in ("download", "recaption", "audit", "embed_captions"):
        write_manifest(layout.artifact(stage))


class _NoPixels:
    """Placeholder for the decoded images, which are in files of their own."""

    def __init__(self, shards: list[KeptShard]) -> None:
        self._keys = pa.chunked_array([shard.keys for shard in shards])

    def __len__(self) -> int:
        return len(self._keys)

    def keys(self) -> pa.ChunkedArray:
        return self._keys


def _measure_stage(stage: str, layout: Layout, columns: list[str]) -> None:
    torch.set_num_threads(1)
    start_seconds, peak = time.monotonic(), Peak(_own_bytes)
    captions = (
        _examples(layout, columns) if stage == "train_clip" else read_caption_rows(layout, "train", Rows())
    )
    embeddings = _joined(layout, captions) if isinstance(captions, Examples) else None
    pa.default_memory_pool().release_unused()
    seconds = time.monotonic() - start_seconds
    peak.stop()
    figures: dict[str, Any] = {"held": _own_bytes(), "peak": peak.bytes, "seconds": seconds}
    say(json.dumps(figures | (_waits(*embeddings) if embeddings else {})))


def _waits(vectors: MappedRows, rows: Tensor) -> dict[str, float]:
    generator = torch.Generator().manual_seed(7)
    batches = [rows[torch.randint(len(rows), (BATCH,), generator=generator)] for _ in range(BATCHES)]
    mapped = _milliseconds(vectors.__getitem__, batches)
    return {"mapped_ms": mapped, "copied_ms": _milliseconds(vectors.whole().__getitem__, batches)}


def _examples(layout: Layout, columns: list[str]) -> Examples:
    shards = list(kept_shards(layout, "train", CAPTION_TEXTS))
    return Examples(_NoPixels(shards), shards, dict.fromkeys(columns, 1.0), Rows(), 0)  # type: ignore[arg-type]


def _joined(layout: Layout, examples: Examples) -> tuple[MappedRows, Tensor]:
    folder = layout.artifact("embed_captions") / "tuned"
    embeddings = read_embeddings(folder, examples.columns, layout.work("bench"))
    rows = examples.embedding_rows(embeddings)
    adapter = TextAdapter(AdapterConfig(embeddings.vectors.shape[1], 64, 1, 1, 0.0, standardise=True))
    adapter.fit_statistics(embeddings.vectors.in_parts(torch.unique(rows)))
    return embeddings.vectors, rows


def _milliseconds(take: Callable[[Tensor], Tensor], batches: list[Tensor]) -> float:
    start_seconds = time.monotonic()
    for rows in batches:
        take(rows)
    return 1000 * (time.monotonic() - start_seconds) / len(batches)


def _own_bytes() -> int:
    """Return this process's memory in bytes, without mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(KIBIBYTE * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


if __name__ == "__main__":
    main()
