"""Cost of a row in download, recaption (by columns) and audit: constants of `llm2clip plan`.

    python -m bench.rates --images ../shared/data/flickr8k/images [--rows 2000 4000 7000]

It runs the three stages, each in one process on one thread, for lists of growing length. It prints for each
stage its CPU seconds (other work may share the cores), its peak memory, and the cost of one more row.
Captions are random words, as long as those of DreamLIP: an alt text, a short caption and a long one. The
images of the folder are decoded as fetched ones are; `bench.download` has the cost of fetching.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ruamel.yaml import YAML

from bench.measuring import Cost, run_measured, say

ROOT = Path(__file__).parents[1]
STAGES = ("download", "recaption", "audit")
WORDS = {"raw": 10, "mllm_short": 10, "mllm_long": 95}
VOCABULARY = 5000
SHARD_ROWS, SIZE, QUALITY = 10_000, 256, 95
Costs = dict[str, list[Cost]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEGs, no two alike")
    parser.add_argument("--rows", type=int, nargs="+", default=[2000, 4000, 7000])
    options = parser.parse_args(arguments)
    names = sorted(path.name for path in options.images.glob("*.jpg"))
    if len(names) < max(options.rows):
        sys.exit(f"{options.images} holds {len(names)} JPEGs; expected {max(options.rows)} or more")
    costs: Costs = {stage: [] for stage in STAGES}
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            _measure(Path(folder), options.images.resolve(), names[:rows], costs)
    for stage, stage_costs in costs.items():
        _print(stage, options.rows, stage_costs)


def _measure(workspace: Path, images: Path, names: list[str], costs: Costs) -> None:
    inputs = workspace / "inputs" / "list"
    inputs.mkdir(parents=True)
    (inputs / "images").symlink_to(images)
    pq.write_table(pa.table({"image": names, **made_captions(len(names))}), inputs / "list.parquet")
    _write_params(workspace / "params.yaml")
    environment = {"PYTHONPATH": str(ROOT), "LLM2CLIP_PROCESSES": "1", "LLM2CLIP_THREADS": "1"}
    for stage in STAGES:
        command = [sys.executable, "-m", "components", stage]
        costs[stage].append(run_measured(command, workspace, environment))
        artifact = workspace / "artifacts" / stage
        size = sum(path.stat().st_size for path in artifact.rglob("*") if path.is_file())
        say(f"{stage}: {len(names)} rows, {size / len(names):.0f} bytes a row")


def made_captions(rows: int) -> dict[str, list[str]]:
    """Return random captions with word frequencies as in natural language (Zipf's law)."""
    draw = random.Random(7)  # noqa: S311 - nothing secret
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(VOCABULARY)]
    weights = [1 / (rank + 1) for rank in range(VOCABULARY)]

    def text(length: int) -> str:
        return " ".join(draw.choices(words, weights, k=length)).capitalize() + "."

    return {column: [text(length) for _ in range(rows)] for column, length in WORDS.items()}


def _write_params(path: Path) -> None:
    yaml = YAML()
    params = yaml.load(ROOT / "presets" / "cc3m.yaml")
    source: dict[str, Any] = {
        "kind": "folder", "name": "list", "path": "list.parquet", "sha256": None, "columns": None,
        "key_column": None, "split_column": None, "split": "train", "images": "images",
        "image_column": "image", "limit": None, "weight": None,
        "captions": [{"column": column, "name": column, "language": "en"} for column in WORDS],
    }  # fmt: skip
    params["download"].update(inputs="list", sources=[source], shard_rows=SHARD_ROWS)
    params["download"]["images"].update(size=SIZE, jpeg_quality=QUALITY)
    params["recaption"].update(max_reject_share=1.0)
    params["audit"].update(
        unknown_passes=True, min_success_share=0.0, max_exact_duplicate_share=1.0,
        max_near_duplicate_share=1.0, max_repeated_caption_share=1.0,
    )  # fmt: skip
    yaml.dump(params, path)


def _print(stage: str, rows: list[int], costs: list[Cost]) -> None:
    for number, cost in zip(rows, costs, strict=True):
        say(f"{stage}: {number} rows, {cost.cpu_seconds:.2f} CPU s, peak {cost.peak_bytes / 1e6:.0f} MB")
    for index in range(1, len(rows)):
        more_rows = rows[index] - rows[index - 1]
        seconds = costs[index].cpu_seconds - costs[index - 1].cpu_seconds
        memory = costs[index].peak_bytes - costs[index - 1].peak_bytes
        say(
            f"{stage}: from {rows[index - 1]} to {rows[index]}, one more row costs "
            f"{1000 * seconds / more_rows:.3f} CPU ms, {memory / more_rows:.0f} bytes of memory"
        )


if __name__ == "__main__":
    main()
