"""The stage download against img2dataset: one server, one list, one machine, turn by turn.

    python -m bench.download [--images FOLDER] [--rows 4000] [--rounds 3] [--memory]

Prints CPU milliseconds an image (all processes, start included), images a second, and peak memory, with the
range over the rounds; then ours with twice the processes. `--memory` instead shows peak memory for lists of
ten thousand and of a million rows. img2dataset is installed in an environment of its own, below the folder
`.work/bench`, and runs with the options nearest to ours: same size, same quality, sha256, same shards.
"""

from __future__ import annotations

import argparse
import io
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

from bench.measuring import Cost, run_measured

PEER = "img2dataset==1.47.0"
ROOT = Path(__file__).parents[1]
SHARD_ROWS, SIZE, QUALITY, CONNECTIONS = 1000, 256, 95, 32
OURS, THEIRS = "ours", "img2dataset"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--images", type=Path, help="JPEGs to serve; made of noise and gradients if not given"
    )
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="peak memory for long lists, without the peer")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = _pictures(options.images, folder / "pictures")
        with _served(folder / "pictures") as port:
            if options.memory:
                _memory(folder, names, port)
            else:
                _speed(folder, names, port, options.rows, options.rounds)


def _speed(folder: Path, names: list[str], port: int, rows: int, rounds: int) -> None:
    peer = _peer_environment()
    _write_list(folder / "list.parquet", [_url(port, names, row) for row in range(rows)])
    costs: dict[str, list[Cost]] = {OURS: [], THEIRS: [], f"{OURS}, 2 processes": []}
    for number in range(rounds):
        costs[OURS].append(_ours(folder, port, rows, 1))
        costs[THEIRS].append(_theirs(peer, folder, rows))
        costs[f"{OURS}, 2 processes"].append(_ours(folder, port, rows, 2))
        _say(f"round {number + 1} of {rounds} done")
    for name, found in costs.items():
        cpu = _range([1000 * cost.cpu_seconds / rows for cost in found])
        rate = _range([rows / cost.wall_seconds for cost in found], 0)
        memory = _range([cost.peak_bytes / 1e6 for cost in found], 0)
        _say(f"{name:18}: {cpu} CPU ms an image, {rate} images a second, peak {memory} MB")
    cpu_ratio = _ratios(costs[THEIRS], costs[OURS], "cpu_seconds")
    wall_ratio = _ratios(costs[THEIRS], costs[OURS], "wall_seconds")
    double = _ratios(costs[f"{OURS}, 2 processes"], costs[OURS], "cpu_seconds")
    _say(f"img2dataset / ours, CPU seconds an image: {cpu_ratio}; wall seconds: {wall_ratio}")
    _say(f"ours with 2 processes / with 1, CPU seconds an image: {double}")


def _memory(folder: Path, names: list[str], port: int) -> None:
    """One row of a hundred is a picture on the server, the others are refused before the network."""
    for rows in (10_000, 1_000_000):
        urls = [_url(port, names, row) if row % 100 == 0 else f"file:///{row}" for row in range(rows)]
        _write_list(folder / "list.parquet", urls)
        cost = _ours(folder, port, rows // 100, 1, max_reject_share=1.0, shard_rows=10_000)
        _say(f"{rows:9} rows: peak {cost.peak_bytes / 1e6:.0f} MB, {cost.wall_seconds:.0f} s")


def _ours(folder: Path, port: int, rows: int, processes: int, **changes: Any) -> Cost:  # noqa: ANN401
    workspace = folder / "workspace"
    shutil.rmtree(workspace, ignore_errors=True)
    (workspace / "inputs" / "list").mkdir(parents=True)
    shutil.copy(folder / "list.parquet", workspace / "inputs" / "list")
    yaml = YAML()
    params = yaml.load(ROOT / "presets" / "flickr8k.yaml")
    download = params["download"]
    source = next(one for one in download["sources"] if one["kind"] == "url_list")
    captions = [{"column": "caption", "name": "alt", "language": "en"}]
    source.update(path="list.parquet", key_column=None, split_column=None, split="train", captions=captions)
    few = {"max_urls_per_body": SHARD_ROWS}  # the pictures of the list are few
    download.update(inputs="list", sources=[source], shard_rows=SHARD_ROWS, **few, **changes)
    download["fetch"].update(allowed_ports=[port], connections=CONNECTIONS, connections_per_host=CONNECTIONS)
    download["images"].update(size=SIZE, jpeg_quality=QUALITY)
    yaml.dump(params, workspace / "params.yaml")
    environment = {"PYTHONPATH": str(ROOT), "LLM2CLIP_PROCESSES": str(processes)}
    cost = run_measured([sys.executable, "-m", "components", "download"], workspace, environment)
    _check_count(workspace / "artifacts" / "download" / "shards", rows)
    return cost


def _theirs(python: Path, folder: Path, rows: int) -> Cost:
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
    """A speed counts only if all pictures are there."""
    found = sum(
        sum(status == "success" for status in pq.read_table(path).column("status").to_pylist())
        for path in shards.glob("*.parquet")
    )
    if found != rows:
        sys.exit(f"{shards} has {found} pictures of {rows}: no figure is printed")


def _peer_environment() -> Path:
    folder = ROOT / ".work" / "bench" / PEER
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", PEER], check=True)
        (folder / "ready").touch()
    return python


def _pictures(given: Path | None, folder: Path) -> list[str]:
    folder.mkdir()
    if given:
        paths = sorted(given.glob("*.jpg"))
        for path in paths:
            shutil.copy(path, folder)
        return [path.name for path in paths]
    draw = np.random.default_rng(7)
    for number in range(100):
        coarse = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        noise = draw.normal(0, 6, (375, 500, 3))
        pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
        target = io.BytesIO()
        Image.fromarray(pixels).save(target, "JPEG", quality=90)
        (folder / f"{number:03d}.jpg").write_bytes(target.getvalue())
    return [f"{number:03d}.jpg" for number in range(100)]


@contextmanager
def _served(folder: Path) -> Iterator[int]:
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


def _url(port: int, names: list[str], row: int) -> str:
    return f"http://127.0.0.1:{port}/{names[row % len(names)]}?row={row}"


def _write_list(path: Path, urls: list[str]) -> None:
    captions = [f"picture {row}" for row in range(len(urls))]
    pq.write_table(pa.table({"url": urls, "caption": captions}), path)


def _ratios(one: list[Cost], other: list[Cost], what: str) -> str:
    pairs = zip(one, other, strict=True)
    return _range([getattr(a, what) / getattr(b, what) for a, b in pairs], 2)


def _range(values: list[float], digits: int = 2) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
