"""What recaption takes."""

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
CAPTION = Figure(0.075, BENCH)  # CPU ms, of one that is read or taken from a column
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
    """Estimate; see `components.planning.estimate`."""
    images = planned_images(params, measured)
    captioners = params.recaption.captioners
    written = {one.name: images.written([one]) for one in captioners}
    by_columns = images.written(one for one in captioners if isinstance(one, ColumnsCaptioner))
    names = sorted({column for one in captioners for column, _ in one.written()})
    given = {name for name, column in caption_columns(params.download.sources).items() if column.by_model}
    run = measured.run("recaption", lambda own: _rows_of(own, names, given))
    milliseconds, why = _cpu(images, by_columns, sum(written.values()), run)
    cpu_hours = milliseconds / 1000 / SECONDS_PER_HOUR
    kept = shard_size(images, params.download)
    is_seen = any(not isinstance(one, ColumnsCaptioner) for one in captioners)
    reads = is_seen + bool(params.recaption.scores)  # of pixels; captions lie beside the shards
    bytes_in = reads * images.images * kept.value
    bounds = [cpu_bound(cpu_hours, 1, "one core")]
    if params.download.data_root:
        bounds.append(network_bound(bytes_in, machine, 1))
    because = [f"{images.images:,.0f} images: what download keeps, see there", why]
    slow, reasons = _models(written, params, machine, measured, run)
    bounds += slow
    because += reasons
    if params.recaption.scores:
        bound, reasons = _scores(params.recaption.scores, images.images, machine, run)
        bounds += bound
        because += reasons
    total = images.captions + sum(written.values())
    rows = min(images.images, params.download.shard_rows)
    because += [
        f"shards are read {reads} times for their pixels; {kept.value / 1e3:,.1f} kB an image: see download",
        f"{CAPTION_BYTES:g} bytes a caption are written, packed, those of sources as well: {BENCH}",
        "memory: 0.15 GB and 43 kB an image of one shard: the same",
    ]
    return Estimate(
        rows=images.images,
        unit="images",
        requests=sum(written[one.name] for one in captioners if one.kind == "endpoint"),
        bytes_in=Figure(bytes_in, f"from {params.download.data_root or 'this disk'}"),
        bytes_out=Figure(total * CAPTION_BYTES, "to this disk"),
        cpu_hours=cpu_hours,
        bounds=bounds,
        memory_bytes=BASE_BYTES + IMAGE_BYTES * ceil(rows),
        because=because,
        cautions=["one machine; but for models on its GPUs all is one process: more cores do not help"],
    )


def _rows_of(metrics: dict[str, Any], names: list[str], given: set[str]) -> int:
    """Return the captions an earlier run wrote; 0 where its columns, those of sources apart, were others."""
    columns = metrics["columns"]
    judged = sum(columns[name]["rows_in"] for name in given & columns.keys())
    return metrics["rows_in"] - judged if sorted(columns.keys() - given) == names else 0


def _cpu(images: PlannedImages, by_columns: float, written: float, run: PastRun | None) -> tuple[float, str]:
    if run:
        own = run.cpu_per_row
        return written * own.value, f"{own.value:.2g} CPU ms a caption written: {own.origin}"
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
    """Return how long captioners that are models take, one after another, and in words why."""
    models = [one for one in params.recaption.captioners if not isinstance(one, ColumnsCaptioner)]
    if not models and not (run and params.recaption.scores):
        return [], []
    if run:
        hours = sum(captions.values()) * run.seconds_per_row / SECONDS_PER_HOUR
        return [Bound("all captioners and scores", hours)], [
            f"{run.seconds_per_row:.2g} s a caption: {run.origin}"
        ]
    speeds = {one.name: _speed(one, params, machine, measured) for one in models}
    because = [f"{captions[name]:,.0f} captions of {name}: {speed.origin}" for name, speed in speeds.items()]
    if not all(speed.value for speed in speeds.values()):
        return [Bound("captioners", None, "run a part, and give --captions-per-second")], because
    gpus = {one.name: 1 if one.kind == "endpoint" else max(1, machine.gpus) for one in models}
    seconds = sum(captions[name] / (speed.value * gpus[name]) for name, speed in speeds.items())
    return [Bound("captioners", seconds / SECONDS_PER_HOUR)], because


def _scores(
    scores: Scores, images: float, machine: Machine, run: PastRun | None
) -> tuple[list[Bound], list[str]]:
    """Return how long the base CLIP takes for all images, and in words why."""
    if run:
        return [], []  # its seconds are those of the captioners too
    if not machine.gpus:
        return [Bound("scores", None, "nobody has measured the base CLIP on a CPU: run a part")], []
    speed = SCORED[scores.precision]
    hours = images / (speed.value * machine.gpus) / SECONDS_PER_HOUR
    return [Bound("scores", hours)], [
        f"scores: {speed.value:g} images a second in {scores.precision}, {speed.origin}"
    ]


def _speed(captioner: Captioner, params: Params, machine: Machine, measured: PastThroughput) -> Figure:
    """Return captions a second; 0 where nobody knows."""
    if machine.captions_per_second:
        return Figure(machine.captions_per_second, f"{machine.captions_per_second:g} a second, as you said")
    weights = _weights(captioner, params, measured)
    if machine.gpu_flops and weights and isinstance(captioner, PromptedCaptioner):
        written = sum(captioner.max_new_tokens.values()) / len(captioner.prompts)
        speed = machine.gpu_flops / (FLOP_PER_WEIGHT * weights * (PROMPT_TOKENS + written))
        return Figure(
            speed,
            f"{speed:.3g} a second, assumed: {FLOP_PER_WEIGHT} x {weights:,} weights for each of "
            f"{PROMPT_TOKENS + written:g} tokens of prompt and max_new_tokens, at "
            f"{machine.gpu_flops / TERA:g} TFLOP/s; the image's tokens and memory's speed are not in it",
        )
    known = f"; {WRITTEN}" if captioner.kind == "vision_language" else ""
    return Figure(0.0, f"nobody has measured this {captioner.kind}{known}")


def _weights(captioner: Captioner, params: Params, measured: PastThroughput) -> int:
    inputs = measured.layout.inputs(params.download.inputs)
    return sum(
        weights_in(inputs / model.source.path)
        for model in params.base_models.vision_language
        if model.name == getattr(captioner, "model", None) and isinstance(model.source, FolderModel)
    )
