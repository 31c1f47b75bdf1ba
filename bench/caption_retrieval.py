"""Caption retrieval by a tuned LLM on Flickr8k, by running base_models and tune_llm.

    python -m bench.caption_retrieval --data FOLDER [--seeds 7 8 9] [--llm FOLDER] [--steps 1200]
    python -m bench.caption_retrieval --data FOLDER --memory

FOLDER holds `flickr8k/captions.parquet` and `text/multi30k_task2_text_only.parquet`. The two stages run as by
`python -m components`, on the params of `bench/caption_retrieval.yaml`. They are trained on the captions of
Flickr8k's train split and of Multi30k's further photographs. The figures are of the thousand validation
images: the query is the first caption of an image; the candidates, searched by cosine, are the second
captions of all images, or the translations of images that have one. TF-IDF and the LLM before tuning are
printed beside them. --llm tunes that LLM instead of making one. --memory prints the peak memory of a batch of
2,048 pairs, with and without the gradient cache.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ruamel.yaml import YAML

from bench.measuring import Cost, run_measured, say
from components.ml.precision import is_bf16_fast
from components.settings.environment import Environment
from components.storage.atomic import read_json, write_json
from components.storage.layout import Layout
from components.storage.manifest import write_manifest
from components.storage.side_tables import Caption, write_captions, write_table

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "bench" / "caption_retrieval.yaml"
PRESET = ROOT / "presets" / "flickr8k.yaml"
INPUTS = Path("inputs/flickr8k")
SPLITS = {"train": "train", "val": "validation"}  # `extra` is left out
STAGES = ("base_models", "tune_llm")
MANY_WORDS = 5  # photographs that share a caption of more words, word for word, count as one
PAIRS_OF_MEMORY, CHUNKS_OF_MEMORY = 2048, 64
T_OF_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # Student's t, two-sided, by number of runs

Rows = dict[str, dict[str, Any]]  # by key: split, and captions by column


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--llm", type=Path, help="in Hugging Face layout, to be tuned")
    parser.add_argument("--steps", type=int, help="of the phase")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args(arguments)
    rows = caption_rows(options.data)
    recipe = _recipe(options.llm, options.steps)
    if options.memory:
        _print_memory(rows, recipe, options.seeds[0])
        return
    retrievals = []
    for seed in options.seeds:
        cost, metrics = _run(rows, recipe, seed)
        retrievals.append(metrics["caption_retrieval"])
        say(
            f"seed {seed}: {_figures(metrics['caption_retrieval'])}; {cost.cpu_seconds:.0f} CPU s, "
            f"{cost.wall_seconds:.0f} s, {cost.peak_bytes / 1e6:.0f} MB"
        )
    for task in retrievals[0]:
        for model in retrievals[0][task]:
            say(f"{task} by {model}: {_interval([retrieval[task][model] for retrieval in retrievals])}")


def _recipe(llm: Path | None, steps: int | None) -> dict[str, Any]:
    """Return the recipe, with another LLM and number of steps where they are given."""
    recipe: dict[str, Any] = YAML(typ="safe").load(RECIPE.read_text("utf-8"))
    if llm:
        recipe["llm"] = {"kind": "folder", "path": str(llm.resolve())}
    if steps:
        (phase,) = recipe["tune_llm"]["phases"]
        phase |= {"steps": steps, "warmup_steps": steps // 10}
    if Environment().device == "cpu" and not is_bf16_fast():
        say("this processor has no instructions for bf16: in float32, which takes longer than bf16 with them")
        recipe["tune_llm"]["precision"] = "fp32"
    return recipe


def _print_memory(rows: Rows, recipe: dict[str, Any], seed: int) -> None:
    for is_cached in (False, True):
        cost, _ = _run(rows, _for_memory(recipe, is_cached=is_cached), seed)
        label = "with the gradient cache" if is_cached else "all at once"
        cost_text = f"{cost.peak_bytes / 1e6:.0f} MB, {cost.cpu_seconds:.0f} CPU s"
        say(f"{PAIRS_OF_MEMORY} pairs {label}: {cost_text}")


def _figures(retrieval: dict[str, dict[str, float]]) -> str:
    return ", ".join(
        f"{task} {' '.join(f'{model} {100 * share:.1f}' for model, share in by_model.items())}"
        for task, by_model in retrieval.items()
    )


def _interval(shares: list[float]) -> str:
    """Return the mean in percent with its 95 % interval over seeds."""
    if len(shares) not in T_OF_95:
        return f"{100 * mean(shares):.1f}"
    half = T_OF_95[len(shares)] * stdev(shares) / len(shares) ** 0.5
    return f"{100 * mean(shares):.1f} +- {100 * half:.1f} over {len(shares)} seeds"


def caption_rows(data: Path) -> Rows:
    """Read the captions of photographs by language; translations have columns of their own."""
    rows: Rows = {}
    for line in pq.read_table(data / "flickr8k" / "captions.parquet").to_pylist():
        if line["split"] in SPLITS:
            row = rows.setdefault(line["key"], {"split": SPLITS[line["split"]]})
            name = line["language"] + ("_translated" if line["kind"] == "human-translation" else "")
            row[name] = line["captions"]
    validation_texts = {text for row in rows.values() if row["split"] == "validation" for text in row["en"]}
    left_out = 0
    for line in pq.read_table(data / "text" / "multi30k_task2_text_only.parquet").to_pylist():
        if validation_texts.isdisjoint(text for text in line["en"] if len(text.split()) > MANY_WORDS):
            rows[f"text_{line['key']}"] = {"split": "train", "en": line["en"], "de": line["de"]}
        else:
            left_out += 1
    say(
        f"captions of {len(rows)} photographs; {left_out} left out, because validation has one of their "
        "captions"
    )
    return rows


def _run(rows: Rows, recipe: dict[str, Any], seed: int) -> tuple[Cost, dict[str, Any]]:
    """Run base_models and tune_llm in a temporary folder; return their cost and the metrics of tune_llm."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_project(folder, rows, recipe, seed)
        script = folder / "stages.sh"
        script.write_text(
            "set -e\n" + "".join(f"{sys.executable} -m components {stage}\n" for stage in STAGES)
        )
        cost = run_measured(["/bin/sh", str(script)], folder, {"PYTHONPATH": str(ROOT)})
        return cost, read_json(folder / "metrics" / "tune_llm.json")


def write_project(folder: Path, rows: Rows, recipe: dict[str, Any], seed: int) -> None:
    """Write params, texts and the artifacts of the stages before tune_llm to a folder."""
    columns = _columns(recipe)
    inputs = folder / INPUTS
    train = [row for row in rows.values() if row["split"] == "train"]
    texts = pa.table({name: [row.get(name) for row in train] for name in sorted(columns)})
    write_table(inputs / "texts.parquet", texts)
    params = YAML(typ="safe").load(PRESET.read_text("utf-8"))
    params["seed"] = seed
    params["base_models"]["llm"] = _llm(recipe["llm"], inputs, columns)
    params["base_models"]["clip"]["texts"] = [_source({"en"})]
    params["tune_llm"] = recipe["tune_llm"]
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(params, file)
    _write_artifacts(Layout(Path(".work"), folder), rows, columns)


def _llm(section: dict[str, Any], inputs: Path, columns: set[str]) -> dict[str, Any]:
    """Return the LLM's params section; an LLM that is made learns its words from the texts.

    An LLM of a folder is copied to the inputs.
    """
    if section["kind"] == "made":
        return section | {"texts": [_source(columns)]}
    shutil.copytree(section["path"], inputs / "llm", dirs_exist_ok=True)
    return section | {"path": "llm"}


def _columns(recipe: dict[str, Any]) -> set[str]:
    kinds = [kind for phase in recipe["tune_llm"]["phases"] for kind in phase["pairs"]]
    return {kind[side] for kind in kinds for side in ("first", "second")}


def _source(columns: set[str]) -> dict[str, Any]:
    captions = [{"column": name, "name": name, "language": name[:2]} for name in sorted(columns)]
    return {
        "kind": "text_table", "name": "texts", "path": "texts.parquet", "sha256": None, "columns": None,
        "key_column": None, "split_column": None, "split": "train", "captions": captions, "limit": None,
    }  # fmt: skip


def _write_artifacts(layout: Layout, rows: Rows, columns: set[str]) -> None:
    """Write the artifacts of the stages before tune_llm: texts without images, and an audit that passed."""
    download, recaption, audit = (layout.artifact(name) for name in ("download", "recaption", "audit"))
    write_captions(download / "texts" / "00000.parquet", _captions(rows, columns))
    write_json(audit / "verdict.json", {"passed": True, "gates": []})
    for folder in (download, recaption, audit):
        folder.mkdir(parents=True, exist_ok=True)
        write_manifest(folder)


def _captions(rows: Rows, columns: set[str]) -> Iterator[Caption]:
    for key, row in sorted(rows.items()):
        for column in sorted(columns & row.keys()):
            for number, text in enumerate(row[column]):
                yield Caption(key, row["split"], column, column[:2], number, text, "people")


def _for_memory(recipe: dict[str, Any], *, is_cached: bool) -> dict[str, Any]:
    """Return a recipe of three steps with one large batch each."""
    tuning = recipe["tune_llm"]
    phase = tuning["phases"][0] | {"steps": 3, "batch_size": PAIRS_OF_MEMORY, "warmup_steps": 0}
    changes = {
        "phases": [phase],
        "chunks": CHUNKS_OF_MEMORY,
        "gradient_cache": is_cached,
        "caption_retrieval_steps": None,
        "min_caption_retrieval_gain": -1.0,
    }
    return recipe | {"tune_llm": tuning | changes}


if __name__ == "__main__":
    main()
