"""Ablation of stage 2: train arms again with one part changed, and measure them on validation.

    make run && python -m bench.ablation            # in the project's folder, on what the run has made
    python -m bench.ablation --variants FILE.yaml --only NAME
    python -m bench.ablation --table 7.json 8.json 9.json

It trains the variants that `bench/ablation.yaml` lists for the preset in params.yaml. Each is one arm of the
preset with some params of the arm (`arm.steps`) or of all arms (`train_clip.batch_size`) replaced. Variants
are trained on the run's captions, embeddings and models, and measured at the end as `train_clip.validation`
says; the test split is not used. A variant that was trained before is taken from the work store.

It prints a Markdown table of recall in percent, text to image / image to text, and writes the figures to the
file that `--json` names. `--table` prints one table of such files of several seeds: the mean over seeds, and
for the mean of all figures the lowest and the highest seed as well.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from ruamel.yaml import YAML

from bench.measuring import say
from components.running.entry import log_to_stderr, prepare_libraries
from components.running.precision import resolved
from components.settings.environment import Environment, load_environment
from components.settings.params import Params, load_params
from components.storage.atomic import read_json, write_json
from components.storage.layout import PARAMS, Layout

STAGE = "train_clip"
VARIANTS = Path(__file__).with_suffix(".yaml")
NEEDED = ("download", "base_models", "recaption", "audit", "tune_llm", "embed_captions")
WAYS = ("text_to_image", "image_to_text")
PERCENT = 100
NO_FIGURES = {"recall_at", "mean"}

Variant = Mapping[str, Any]
Result = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--variants", type=Path, default=VARIANTS, help="a file as bench/ablation.yaml")
    parser.add_argument("--only", nargs="*", help="names of variants; all if not given")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    parser.add_argument("--table", nargs="+", type=Path, help="print the table of such files, train nothing")
    options = parser.parse_args(arguments)
    if options.table:
        say(table([read_json(path) for path in options.table]))
        return
    log_to_stderr()
    params, env = load_params(PARAMS), load_environment()
    prepare_libraries(env)
    results = []
    for variant in listed(options.variants, params.preset, options.only):
        results.append(_result(variant, params, env))
        if options.json:
            write_json(options.json, results)
    say(table([results]))


def listed(path: Path, preset: str, only: Sequence[str] | None) -> list[Variant]:
    """Return the variants of a preset, or only the named ones.

    Raises:
        SystemExit: the preset has no variants, or has no variant of a given name.
    """
    variants_by_preset = YAML(typ="safe").load(path.read_text("utf-8"))
    variants: list[Variant] = variants_by_preset.get(preset, [])
    names = [variant["name"] for variant in variants]
    if not variants:
        sys.exit(
            f"{path} has no variants of preset {preset}; expected one of {', '.join(variants_by_preset)}"
        )
    if absent := set(only or ()) - set(names):
        sys.exit(f"{path} has no variant {', '.join(sorted(absent))}; expected of {'; '.join(names)}")
    return [variant for variant in variants if only is None or variant["name"] in only]


def changed(params: Params, variant: Variant) -> Params:
    """Return params whose only arm is the variant's, with the variant's changes.

    Raises:
        SystemExit: the variant names an arm or a param that does not exist.
    """
    tree = params.model_dump()
    section = tree["train_clip"]
    arms = [arm for arm in section["arms"] if arm["name"] == variant["arm"]]
    if not arms:
        sys.exit(f"variant {variant['name']}: the preset has no arm {variant['arm']}")
    section["arms"] = arms
    for param, value in variant.get("set", {}).items():
        head, *path = param.split(".")
        last = path.pop() if path else ""
        part = {"arm": arms[0], "train_clip": section}.get(head, {})
        for name in path:
            part = part.get(name, {})
        if last not in part:
            sys.exit(f"variant {variant['name']}: no param {param}; expected a param of arm or train_clip")
        part[last] = value
    tree["register"] |= {"arm": variant["arm"], "gates": []}
    return Params.model_validate(tree)


def table(runs: Sequence[Sequence[Result]]) -> str:
    """Return a Markdown table: one line a variant, with the mean of each figure over the runs that have it.

    Args:
        runs: Results of one seed each.
    """
    tasks = sorted({name.partition("/")[0] for name in runs[0][0]["recall"]} - NO_FIGURES)
    k = runs[0][0]["recall"]["recall_at"]
    figures = [f"{task} R@{k}" for task in tasks]
    head = ["variant", "steps", "seeds", *figures, "mean (lowest to highest)"]
    lines = [head, ["---"] * len(head)]
    for first in runs[0]:
        variant_results = [result for run in runs for result in run if result["name"] == first["name"]]
        recalls = [result["recall"] for result in variant_results]
        cells = [" / ".join(_mean(recalls, f"{task}/{way}") for way in WAYS) for task in tasks]
        means = [PERCENT * recall["mean"] for recall in recalls]
        spread = f" ({min(means):.1f} to {max(means):.1f})" if len(means) > 1 else ""
        counts = [f"{first['steps']:,}", str(len(variant_results))]
        lines.append([first["name"], *counts, *cells, f"{fmean(means):.1f}{spread}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean(recalls: list[dict[str, float]], name: str) -> str:
    return f"{PERCENT * fmean(recall[name] for recall in recalls):.1f}"


def _result(variant: Variant, params: Params, env: Environment) -> Result:
    from components.train_clip.stage import run

    variant_params = resolved(changed(params, variant), STAGE, env.device)
    start_seconds = time.monotonic()
    with _project(env) as layout:
        run(variant_params, env)
        about = read_json(layout.artifact(STAGE) / variant["arm"] / "model.json")
    if "validation" not in about:
        sys.exit(f"preset {params.preset} measures nothing on validation: set train_clip.validation")
    say(f"{variant['name']}: {time.monotonic() - start_seconds:.0f} s, reading and measuring included")
    return {"name": variant["name"], "steps": about["steps"], "recall": about["validation"]}


@contextmanager
def _project(env: Environment) -> Iterator[Layout]:
    """Change into a temporary project folder with this project's artifacts and without its arms."""
    project = Path.cwd()
    work_store = (project / env.work_store).resolve()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "artifacts").mkdir()
        for stage in NEEDED:
            (root / "artifacts" / stage).symlink_to((project / "artifacts" / stage).resolve())
        if not env.work_store.is_absolute():
            (root / env.work_store).symlink_to(work_store)
        os.chdir(root)
        try:
            yield Layout(env.work_store)
        finally:
            os.chdir(project)


if __name__ == "__main__":
    main()
