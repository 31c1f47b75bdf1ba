"""Speed and memory of the stage download against img2dataset: one server, list and machine, in turns.

    python -m bench.download [--images FOLDER | --width 1024] [--rows 4000] [--rounds 3] [--memory]

It prints CPU milliseconds an image (all processes, start included), images a second, and peak memory, with
the range over the rounds; then the same of our stage with two processes. `--memory` instead prints peak
memory for lists of 10,000, 100,000 and 1,000,000 rows. img2dataset is installed in an environment of its own
in `.work/bench`, and runs with the options nearest to ours: same size, same quality, sha256, same shards.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from ruamel.yaml import YAML

from bench.measuring import Cost, run_measured, say

PEER = "img2dataset==1.47.0"
ROOT = Path(__file__).parents[1]
SHARD_ROWS, SIZE, QUALITY, CONNECTIONS = 2000, 256, 95, 32
MADE = 60  # pictures
OURS, THEIRS = "ours", "img2dataset"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of JPEGs to serve; made on the spot if not given")
    parser.add_argument("--width", type=int, default=1024, help="pixels of made images")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="peak memory for long lists, without the peer")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = pictures(options.images, options.width, folder / "pictures")
        with served(folder / "pictures") as port:
            if options.memory:
                _memory(folder, names, port)
            else:
                _speed(folder, names, port, options.rows, options.rounds)


def _speed(folder: Path, names: list[str], port: int, rows: int, rounds: int) -> None:
    peer = _peer_environment()
    write_list(folder / "list.parquet", [url_of(port, names, row) for row in range(rows)])
    costs: dict[str, list[Cost]] = {OURS: [], THEIRS: [], f"{OURS}, 2 processes": []}
    for number in range(rounds):
        costs[OURS].append(run_ours(folder, port, rows, 1))
        costs[THEIRS].append(_run_peer(peer, folder, rows))
        costs[f"{OURS}, 2 processes"].append(run_ours(folder, port, rows, 2))
        say(f"round {number + 1} of {rounds} done")
    for name, runs in costs.items():
        cpu = _range([1000 * cost.cpu_seconds / rows for cost in runs])
        rate = _range([rows / cost.wall_seconds for cost in runs], 0)
        memory = _range([cost.peak_bytes / 1e6 for cost in runs], 0)
        say(f"{name:18}: {cpu} CPU ms an image, {rate} images a second, peak {memory} MB")
    cpu_ratio = _ratios(costs[THEIRS], costs[OURS], "cpu_seconds")
    wall_ratio = _ratios(costs[THEIRS], costs[OURS], "wall_seconds")
    process_ratio = _ratios(costs[f"{OURS}, 2 processes"], costs[OURS], "cpu_seconds")
    say(f"img2dataset / ours, CPU seconds an image: {cpu_ratio}; wall seconds: {wall_ratio}")
    say(f"ours with 2 processes / with 1, CPU seconds an image: {process_ratio}")


def _memory(folder: Path, names: list[str], port: int) -> None:
    """Print peak memory by rows; one row in 100 is a picture on the server, the others need no network."""
    for rows in (10_000, 100_000, 1_000_000):
        urls = [url_of(port, names, row) if row % 100 == 0 else f"file:///{row}" for row in range(rows)]
        write_list(folder / "list.parquet", urls)
        cost = run_ours(folder, port, rows // 100, 1, max_reject_share=1.0, shard_rows=10_000)
        say(f"{rows:9} rows: peak {cost.peak_bytes / 1e6:.0f} MB, {cost.wall_seconds:.0f} s")


def run_ours(folder: Path, port: int, rows: int, processes: int, **changes: Any) -> Cost:  # noqa: ANN401
    """Run the stage on a folder's `list.parquet`, which must give `rows` pictures; `changes` are params."""
    workspace = folder / "workspace"
    shutil.rmtree(workspace, ignore_errors=True)
    (workspace / "inputs" / "list").mkdir(parents=True)
    shutil.copy(folder / "list.parquet", workspace / "inputs" / "list")
    yaml = YAML()
    params = yaml.load(ROOT / "presets" / "flickr8k.yaml")
    download = params["download"]
    source = next(source for source in download["sources"] if source["kind"] == "url_list")
    captions = [{"column": "caption", "name": "alt", "language": "en"}]
    source.update(path="list.parquet", key_column=None, split_column=None, split="train", captions=captions)
    download.update(inputs="list", sources=[source], shard_rows=SHARD_ROWS)
    download.update(max_urls_per_body=rows, **changes)  # the list has few different pictures
    download["fetch"].update(allowed_ports=[port], connections=CONNECTIONS, connections_per_host=CONNECTIONS)
    download["images"].update(size=SIZE, jpeg_quality=QUALITY)
    yaml.dump(params, workspace / "params.yaml")
    environment = {"PYTHONPATH": str(ROOT), "LLM2CLIP_PROCESSES": str(processes)}
    cost = run_measured([sys.executable, "-m", "components", "download"], workspace, environment)
    _check_count(workspace / "artifacts" / "download" / "shards", rows)
    return cost


def _run_peer(python: Path, folder: Path, rows: int) -> Cost:
    workspace = folder / "peer"
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir()
    options = {
        "url_list": folder / "list.parquet",
        "input_format": "parquet",
        "url_col": "url",
        "caption_col": "caption",
        "output_folder": "out",
        "output_format": "webdataset",
        "image_size": SIZE,
        "resize_mode": "keep_ratio_largest",
        "resize_only_if_bigger": True,
        "encode_quality": QUALITY,
        "compute_hash": "sha256",
        "number_sample_per_shard": SHARD_ROWS,
        "processes_count": 1,
        "thread_count": CONNECTIONS,
        "enable_wandb": False,
    }
    command = [
        str(python.with_name("img2dataset")),
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    cost = run_measured(command, workspace, {"NO_ALBUMENTATIONS_UPDATE": "1"})
    _check_count(workspace / "out", rows)
    return cost


def _check_count(shards: Path, rows: int) -> None:
    """Check that all pictures are there; otherwise a speed does not count."""
    count = sum(
        sum(status == "success" for status in pq.read_table(path).column("status").to_pylist())
        for path in shards.glob("*.parquet")
    )
    if count != rows:
        sys.exit(f"{shards} has {count} pictures of {rows}: no figure is printed")


def _peer_environment() -> Path:
    folder = ROOT / ".work" / "bench" / PEER
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", PEER], check=True)
        (folder / "ready").touch()
    return python


def pictures(given: Path | None, width: int, folder: Path) -> list[str]:
    """Put JPEGs in a folder: the given ones, or soft colours with grain, 1.6 bits a pixel as on the web."""
    folder.mkdir()
    if given:
        for path in given.glob("*.jpg"):
            shutil.copy(path, folder)
    else:
        draw = np.random.default_rng(7)
        for number in range(MADE):
            _random_picture(draw, width).save(folder / f"{number:03d}.jpg", quality=85)
    return sorted(path.name for path in folder.iterdir())


def _random_picture(draw: np.random.Generator, width: int) -> Image.Image:
    size = width, 3 * width // 4
    colours = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    structure = Image.fromarray(draw.normal(0, 10, (size[1] // 3, size[0] // 3)).astype(np.float32))
    grain = draw.normal(0, 3, (size[1], size[0]))
    light = np.asarray(structure.resize(size, Image.Resampling.BICUBIC)) + grain
    pixels = np.asarray(colours.resize(size, Image.Resampling.BICUBIC)) + light[:, :, None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@contextmanager
def served(folder: Path) -> Iterator[int]:
    """Serve the files of a folder on loopback; yield the port."""
    command = [sys.executable, "-m", "bench.image_server", str(folder)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None  # noqa: S101 - for mypy
        assert server.stdout is not None  # noqa: S101
        try:
            yield int(server.stdout.readline())
        finally:
            server.stdin.close()


def url_of(port: int, names: list[str], row: int) -> str:
    """Return the url of one of the pictures, distinct for each row."""
    return f"http://127.0.0.1:{port}/{names[row % len(names)]}?row={row}"


def write_list(path: Path, urls: list[str]) -> None:
    """Write a url list with captions."""
    captions = [f"picture {row}" for row in range(len(urls))]
    pq.write_table(pa.table({"url": urls, "caption": captions}), path)


def _ratios(numerators: list[Cost], denominators: list[Cost], field: str) -> str:
    pairs = zip(numerators, denominators, strict=True)
    return _range(
        [getattr(numerator, field) / getattr(denominator, field) for numerator, denominator in pairs], 2
    )


def _range(values: list[float], digits: int = 2) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()
