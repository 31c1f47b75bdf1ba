"""Cost of the audit: CPU for the fingerprint of an image, time and memory of the whole stage by rows.

    python -m bench.audit [--images FOLDER] [--rows 100000 1000000] [--captions 3]

First, JPEGs of 256 pixels, from a folder or made on the spot, are packed into shards and fingerprinted, by
one process and by two. Then `python -m components audit` runs on tables of each number of rows: random
thumbnails that vary as coarsely as photographs do, random hashes, captions of random words, and a copy of one
image in 200. The fingerprints are in the work store as if an earlier run had made them, so no JPEG is needed;
the rest is the real stage. The last line is the memory that one more row takes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from ruamel.yaml import YAML

from bench.measuring import Cost, run_measured, say
from components.audit.host_stats import LEDGER
from components.audit.near_duplicates.fingerprints import (
    Fingerprint,
    read_fingerprints,
    results_of,
    write_fingerprints,
)
from components.running.workers import stop_server
from components.storage.atomic import write_bytes
from components.storage.manifest import listed, write_manifest
from components.storage.result_cache import get_or_build
from components.storage.shards import IMAGES, ROWS, Pair, shards_of, tables_of, write_shard
from components.storage.side_tables import CAPTIONS, write_table

ROOT = Path(__file__).parents[1]
SIDE, QUALITY, MADE = 256, 95, 60
JPEG_ROWS = 1000  # of a shard of JPEGs
SHARD_ROWS = 10_000
PLANTED = 100  # row 100 copies row 0, row 300 copies row 200, and so on
WORDS = [f"word{number}" for number in range(5000)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of JPEGs; made on the spot if not given")
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--captions", type=int, default=3, help="of an image")
    parser.add_argument(
        "--fingerprints", nargs=2, metavar=("DOWNLOAD", "PROCESSES"), help="only fingerprint these shards"
    )
    options = parser.parse_args(arguments)
    if options.fingerprints:
        download, processes = Path(options.fingerprints[0]), int(options.fingerprints[1])
        read_fingerprints(download, shards_of(download), Path(f"work{processes}"), processes)
        stop_server()
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _fingerprints(options.images, folder / "images")
        costs = [_stage(rows, options.captions, folder / "stage") for rows in options.rows]
    for (rows, cost), (more, larger) in pairwise(zip(options.rows, costs, strict=True)):
        slope = (larger.peak_bytes - cost.peak_bytes) / (more - rows)
        say(f"{slope:.0f} bytes of peak memory a row from {rows} to {more}")


def _fingerprints(images: Path | None, folder: Path) -> None:
    jpegs = list(_jpegs(images))
    download = folder / "download"
    names = [f"shards/{number:05d}.tar" for number in range(4)]
    for number, name in enumerate(names):
        rows = range(number * JPEG_ROWS, (number + 1) * JPEG_ROWS)
        pairs = [Pair(f"k{row:06d}", jpegs[row % len(jpegs)], "", {"split": "train"}) for row in rows]
        write_shard(download / name, pairs)
    write_manifest(download, dict.fromkeys(names, JPEG_ROWS))
    size, count = sum(map(len, jpegs)) / len(jpegs), len(names) * JPEG_ROWS
    for processes in (1, 2):
        command = [sys.executable, "-m", "bench.audit", "--fingerprints", str(download)]
        cost = run_measured([*command, str(processes)], folder, {"PYTHONPATH": str(ROOT)})
        say(
            f"fingerprints, {processes} process(es), {count} JPEGs of {size / 1000:.0f} kB: "
            f"{1000 * cost.cpu_seconds / count:.2f} CPU ms an image with the start of all processes, "
            f"peak {cost.peak_bytes / 1e6:.0f} MB"
        )


def _jpegs(images: Path | None) -> Iterator[bytes]:
    draw = np.random.default_rng(7)
    paths = sorted(images.glob("*.jpg"))[:400] if images else [None] * MADE
    if not paths:
        sys.exit(f"{images} holds no .jpg; give a folder of JPEGs")
    for path in paths:
        if path:
            picture = Image.open(path).convert("RGB")
        else:
            coarse = draw.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
        stream = BytesIO()
        picture.save(stream, "JPEG", quality=QUALITY, subsampling=0)
        yield stream.getvalue()


def _stage(rows: int, captions: int, workspace: Path) -> Cost:
    shutil.rmtree(workspace, ignore_errors=True)
    (workspace / "inputs" / "demo").mkdir(parents=True)
    yaml = YAML()
    params = yaml.load(ROOT / "presets" / "demo.yaml")
    params["audit"].update(gallery_rows=0, max_near_duplicate_share=1.0, unknown_passes=True)
    params["audit"].update(max_leaked_share=1.0, max_exact_duplicate_share=1.0)
    yaml.dump(params, workspace / "params.yaml")
    _write_tables(rows, captions, workspace)
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    cost = run_measured([sys.executable, "-m", "components", "audit"], workspace, environment)
    gates = json.loads((workspace / "artifacts" / "audit" / "verdict.json").read_text())["gates"]
    share = next(gate["figure"] for gate in gates if gate["name"] == "near_duplicates")
    say(
        f"{rows} rows, {captions} captions each: {cost.cpu_seconds:.0f} CPU s, {cost.wall_seconds:.0f} s, "
        f"peak {cost.peak_bytes / 1e6:.0f} MB; near duplicates {share:.4%}, planted about {0.5 / PLANTED:.2%}"
    )
    return cost


def _write_tables(rows: int, captions: int, workspace: Path) -> None:
    """Write what download, recaption and an earlier run's fingerprinting would have left."""
    download, recaption = workspace / "artifacts" / "download", workspace / "artifacts" / "recaption"
    draw, names = np.random.default_rng(7), {}
    for number, start in enumerate(range(0, rows, SHARD_ROWS)):
        keys = [f"images_{row:012d}" for row in range(start, min(start + SHARD_ROWS, rows))]
        splits = ["test" if row % 100 == 50 else "train" for row in range(len(keys))]
        name = f"shards/{number:05d}"
        write_bytes(download / f"{name}.tar", f"in the place of shard {number}".encode())
        names[f"{name}.tar"] = len(keys)
        status = [{"key": key, "url": "https://images.example/x.jpg", "status": "success"} for key in keys]
        write_table(download / ROWS / f"{number:05d}.parquet", pa.Table.from_pylist(status, LEDGER))
        images = [
            {"key": key, "split": split, "sha256": key, "labels": {}}
            for key, split in zip(keys, splits, strict=True)
        ]
        write_table(tables_of(download / f"{name}.tar")[1], pa.Table.from_pylist(images, IMAGES))
        table = captions_table(draw, keys, splits, captions)
        write_table(recaption / "captions" / f"{number:05d}.parquet", table)
    write_manifest(download, names)
    write_manifest(recaption)
    for entry in listed(download):
        if entry.rows:
            start = int(entry.name) * SHARD_ROWS
            fingerprints = _random_fingerprints(draw, start, entry.rows)
            store = results_of(workspace / ".work" / "audit")
            get_or_build(store, entry.sha256, partial(write_fingerprints, fingerprints=fingerprints))


def captions_table(draw: np.random.Generator, keys: list[str], splits: list[str], captions: int) -> pa.Table:
    """Return captions of twelve random words, one for each key and column `c0`, `c1`, ..."""
    words = np.array(WORDS)[draw.integers(0, len(WORDS), (len(keys) * captions, 12))]
    return pa.table(
        {
            "key": np.repeat(keys, captions),
            "split": np.repeat(splits, captions),
            "column": [f"c{number}" for number in range(captions)] * len(keys),
            "language": ["en"] * len(words),
            "number": pa.array([0] * len(words), pa.int32()),
            "text": [" ".join(line) for line in words],
            "writer": ["w"] * len(words),
        },
        CAPTIONS,
    )


def _random_fingerprints(draw: np.random.Generator, start: int, rows: int) -> list[Fingerprint]:
    thumbnails = photographs(draw, rows)
    hashes = draw.integers(0, 2**63, rows, dtype=np.uint64)
    copies, originals = slice(PLANTED, None, 2 * PLANTED), slice(0, -PLANTED, 2 * PLANTED)
    thumbnails[copies], hashes[copies] = thumbnails[originals] ^ 1, hashes[originals]
    digests = draw.bytes(32 * rows)
    return [
        Fingerprint(
            f"images_{start + row:012d}",
            digests[32 * row : 32 * row + 32],
            int(hashes[row]),
            256,
            192,
            30_000,
            thumbnails[row],
        )
        for row in range(rows)
    ]


def photographs(draw: np.random.Generator, rows: int) -> NDArray[np.uint8]:
    """Return random thumbnails (rows, 768) that vary coarsely about as much as those of Flickr8k.

    Standard deviations in Flickr8k, in grey levels along orthonormal directions: brightness 32, upper against
    lower half 22, left against right 12, red against blue 11.
    """
    gradient = np.linspace(-1, 1, 16, dtype=np.float32)
    thumbnails = draw.normal(110, 32, (rows, 1, 1, 1)) + draw.normal(0, 12, (rows, 16, 16, 3))
    thumbnails += gradient[:, None, None] * draw.normal(0, 40, (rows, 1, 1, 1))
    thumbnails += gradient[:, None] * draw.normal(0, 22, (rows, 1, 1, 1))
    thumbnails += np.array([1, 0, -1]) * draw.normal(0, 14, (rows, 1, 1, 1))
    return thumbnails.clip(0, 255).astype(np.uint8).reshape(rows, -1)


if __name__ == "__main__":
    main()
