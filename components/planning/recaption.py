"""Cost of the recaption stage."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

from components.planning.estimate import (
    SECONDS_PER_HOUR,
    TERA,
    Bound,
    Estimate,
    Machine,
    cpu_bound,
    network_bound,
)
from components.planning.images import PlannedImages, planned_images, shard_size
from components.planning.past_throughput import Figure, PastRun, PastThroughput
from components.running.model_weights import weights_in
from components.settings.base_models import FolderModel
from components.settings.params import Params
from components.settings.recaption import Captioner, ColumnsCaptioner, PromptedCaptioner, Scores
from components.settings.sources import caption_columns

BENCH = "`python -m bench.rates`, captions as long as DreamLIP's"
CAPTION = Figure(0.075, BENCH)  # CPU ms of a caption that is read or taken from a column
CAPTION_BYTES = 110.0
BASE_BYTES, IMAGE_BYTES = 150e6, 43e3
H100 = "`python -m bench.captioners --device cuda` on one H100"
SCORED = {  # by precision; images a second
    "fp32": Figure(102.0, f"ViT-L/14 at 336 pixels: {H100} with 16 threads; a smaller base CLIP is faster"),
    "bf16": Figure(337.0, f"ViT-L/14 at 336 pixels: {H100} with 16 threads; a smaller base CLIP is faster"),
}
WRITTEN = f"LLaVA-1.5-7B writes 20 captions of 64 tokens a second, Florence-2-large 51: {H100} with 8 threads"
PROMPT_TOKENS = 32  # of prompt and template
FLOP_PER_WEIGHT = 2


def plan(params: Params, machine: Machine, measured: PastThroughput) -> Estimate:
    """Estimate the recaption stage; see `components.planning.estimate`."""
    images = planned_images(params, measured)
    captioners = params.recaption.captioners
    written = {captioner.name: images.written([captioner]) for captioner in captioners}
    by_columns = images.written(
        captioner for captioner in captioners if isinstance(captioner, ColumnsCaptioner)
    )
    names = sorted({column for captioner in captioners for column, _ in captioner.written()})
    judged_columns = {
        name for name, column in caption_columns(params.download.sources).items() if column.by_model
    }
    run = measured.run("recaption", lambda metrics: _rows_of(metrics, names, judged_columns))
    milliseconds, reason = _cpu(images, by_columns, sum(written.values()), run)
    cpu_hours = milliseconds / 1000 / SECONDS_PER_HOUR
    shard_bytes = shard_size(images, params.download)
    is_seen = any(not isinstance(captioner, ColumnsCaptioner) for captioner in captioners)
    reads = is_seen + bool(params.recaption.scores)  # of pixels; captions are in files beside the shards
    bytes_in = reads * images.images * shard_bytes.value
    bounds = [cpu_bound(cpu_hours, 1, "one core")]
    if params.download.data_root:
        bounds.append(network_bound(bytes_in, machine, 1))
    because = [f"{images.images:,.0f} images, as download keeps", reason]
    model_bounds, reasons = _models(written, params, machine, measured, run)
    bounds += model_bounds
    because += reasons
    if params.recaption.scores:
        bound, reasons = _scores(params.recaption.scores, images.images, machine, run)
        bounds += bound
        because += reasons
    total = images.captions + sum(written.values())
    rows = min(images.images, params.download.shard_rows)
    because += [
        f"shards are read {reads} times for their pixels; {shard_bytes.value / 1e3:,.1f} kB an image: see "
        "download",
        f"{CAPTION_BYTES:g} bytes a caption are written, packed, captions of sources included: {BENCH}",
        "memory: 0.15 GB and 43 kB an image of one shard: the same source",
    ]
    return Estimate(
        rows=images.images,
        unit="images",
        requests=sum(written[captioner.name] for captioner in captioners if captioner.kind == "endpoint"),
        bytes_in=Figure(bytes_in, f"from {params.download.data_root or 'this disk'}"),
        bytes_out=Figure(total * CAPTION_BYTES, "to this disk"),
        cpu_hours=cpu_hours,
        bounds=bounds,
        memory_bytes=BASE_BYTES + IMAGE_BYTES * ceil(rows),
        because=because,
        cautions=["one machine and one process, except models on its GPUs: more cores do not help"],
    )


def _rows_of(metrics: dict[str, Any], names: list[str], judged_columns: set[str]) -> int:
    """Return the captions that an earlier run wrote; 0 if it wrote other columns."""
    columns = metrics["columns"]
    judged = sum(columns[name]["rows_in"] for name in judged_columns & columns.keys())
    return metrics["rows_in"] - judged if sorted(columns.keys() - judged_columns) == names else 0


def _cpu(images: PlannedImages, by_columns: float, written: float, run: PastRun | None) -> tuple[float, str]:
    if run:
        row_cost = run.cpu_per_row
        return written * row_cost.value, f"{row_cost.value:.2g} CPU ms a caption written: {row_cost.origin}"
    handled = images.captions + by_columns
    return handled * CAPTION.value, (
        f"{CAPTION.value:g} CPU ms a caption, {images.captions:,.0f} read and {by_columns:,.0f} taken from "
        f"columns: {CAPTION.origin}"
    )


def _models(
    captions: Mapping[str, float],
    params: Params,
    machine: Machine,
    measured: PastThroughput,
    run: PastRun | None,
) -> tuple[list[Bound], list[str]]:
    """Return the time of captioners that are models, one after another, and the reasons in words."""
    models = [
        captioner for captioner in params.recaption.captioners if not isinstance(captioner, ColumnsCaptioner)
    ]
    if not models and not (run and params.recaption.scores):
        return [], []
    if run:
        hours = sum(captions.values()) * run.seconds_per_row / SECONDS_PER_HOUR
        return [Bound("all captioners and scores", hours)], [
            f"{run.seconds_per_row:.2g} s a caption: {run.origin}"
        ]
    speeds = {captioner.name: _speed(captioner, params, machine, measured) for captioner in models}
    because = [f"{captions[name]:,.0f} captions of {name}: {speed.origin}" for name, speed in speeds.items()]
    if not all(speed.value for speed in speeds.values()):
        return [Bound("captioners", None, "run a part, and give --captions-per-second")], because
    gpus = {
        captioner.name: 1 if captioner.kind == "endpoint" else max(1, machine.gpus) for captioner in models
    }
    seconds = sum(captions[name] / (speed.value * gpus[name]) for name, speed in speeds.items())
    return [Bound("captioners", seconds / SECONDS_PER_HOUR)], because


def _scores(
    scores: Scores, images: float, machine: Machine, run: PastRun | None
) -> tuple[list[Bound], list[str]]:
    """Return the time of the base CLIP for all images, and the reasons in words."""
    if run:
        return [], []  # its seconds include those of the captioners
    if not machine.gpus:
        return [Bound("scores", None, "the base CLIP was not measured on a CPU: run a part")], []
    speed = SCORED[scores.precision]
    hours = images / (speed.value * machine.gpus) / SECONDS_PER_HOUR
    return [Bound("scores", hours)], [
        f"scores: {speed.value:g} images a second in {scores.precision}, {speed.origin}"
    ]


def _speed(captioner: Captioner, params: Params, machine: Machine, measured: PastThroughput) -> Figure:
    """Return captions a second; 0 if unknown."""
    if machine.captions_per_second:
        return Figure(machine.captions_per_second, f"{machine.captions_per_second:g} a second, as you said")
    weights = _weights(captioner, params, measured)
    if machine.gpu_flops and weights and isinstance(captioner, PromptedCaptioner):
        new_tokens = sum(captioner.max_new_tokens.values()) / len(captioner.prompts)
        speed = machine.gpu_flops / (FLOP_PER_WEIGHT * weights * (PROMPT_TOKENS + new_tokens))
        return Figure(
            speed,
            f"{speed:.3g} a second, assumed: {FLOP_PER_WEIGHT} x {weights:,} weights for each of "
            f"{PROMPT_TOKENS + new_tokens:g} tokens of prompt and max_new_tokens, at "
            f"{machine.gpu_flops / TERA:g} TFLOP/s; image tokens and memory speed are not included",
        )
    hint = f"; {WRITTEN}" if captioner.kind == "vision_language" else ""
    return Figure(0.0, f"this {captioner.kind} was not measured{hint}")


def _weights(captioner: Captioner, params: Params, measured: PastThroughput) -> int:
    inputs = measured.layout.inputs(params.download.inputs)
    return sum(
        weights_in(inputs / model.source.path)
        for model in params.base_models.vision_language
        if model.name == getattr(captioner, "model", None) and isinstance(model.source, FolderModel)
    )
