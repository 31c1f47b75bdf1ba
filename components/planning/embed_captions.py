"""Cost of the embed_captions stage: exact bytes, and hours if a run or the GPU's speed is known."""

from __future__ import annotations

from collections.abc import Sequence

from components.planning.estimate import SECONDS_PER_HOUR, Bound, Estimate, Machine
from components.planning.images import PlannedImages, planned_images
from components.planning.language_model import EMBEDDING_SHARES, gpu_hours, llm_weights, llm_width
from components.planning.past_throughput import Figure, PastRun, PastThroughput
from components.running.model_weights import WEIGHT_BYTES
from components.settings.params import Params

HALF_BYTES, FLOAT_BYTES = 2, 4
LINE_BYTES, CAPTION_BYTES = (
    40.0,
    110.0,
)  # packed: a row of the table beside vectors, and a caption that is read
FORWARD = 2  # operations a token and weight


def plan(params: Params, machine: Machine, measured: PastThroughput) -> Estimate:
    """Estimate the embed_captions stage; see `components.planning.estimate`."""
    settings = params.embed_captions
    images = planned_images(params, measured)
    captions = images.captions_with(params.recaption.captioners)
    inputs = measured.layout.inputs(params.download.inputs)
    width, weights = llm_width(params, inputs), llm_weights(params, inputs, machine)
    run = last_run(measured, settings.names)
    because = [
        f"{captions:,.0f} captions of {images.images:,.0f} images: what download keeps and recaption writes, "
        f"each embedded by {', '.join(settings.names)}; fewer if audit drops rows or texts are equal",
    ]
    if run:
        hours, reason = _hours_as_before(captions * len(settings.names), run)
    else:
        hours, reason = gpu_hours(captions * len(settings.llms), FORWARD, weights, machine, EMBEDDING_SHARES)
    because.append(reason)
    numbers = sum(encoder.dimensions for encoder in settings.others if encoder.kind == "endpoint")
    numbers += int(width.value) * len(settings.llms)
    because.append(f"{width.value:.0f} numbers of {HALF_BYTES} bytes a caption: {width.origin}")
    if any(encoder.kind == "sentence_transformers" for encoder in settings.others):
        because.append("sentence encoders are not included: their width is known once they are fetched")
    endpoints = [encoder for encoder in settings.others if encoder.kind == "endpoint"]
    return Estimate(
        rows=captions,
        unit="captions",
        requests=sum(captions / encoder.batch_size for encoder in endpoints),
        bytes_in=Figure(captions * CAPTION_BYTES, "from this disk"),
        bytes_out=Figure(
            captions * (numbers * HALF_BYTES + LINE_BYTES * len(settings.names)),
            f"to {params.download.data_root or 'this disk'}",
        ),
        cpu_hours=None,
        bounds=[hours],
        memory_bytes=_memory(
            captions,
            images,
            params,
            width.value,
            weights.value if weights else None,
            max(1, machine.gpus),
        ),
        because=because,
        cautions=["one machine: one process for each GPU, or several on its cores, each with the whole LLM"],
    )


def last_run(measured: PastThroughput, names: list[str]) -> PastRun | None:
    """Return the last run with encoders of these names, if it tells their speed on this machine."""
    return measured.worked("embed_captions", lambda worked: worked.get(title(names), 0))


def title(names: Sequence[str]) -> str:
    """Return the progress name of the work of these encoders."""
    return f"embed_captions by {', '.join(names)}"


def _hours_as_before(captions: float, run: PastRun) -> tuple[Bound, str]:
    hours = captions * run.seconds_per_row / SECONDS_PER_HOUR
    return Bound("the encoders", hours), f"{run.seconds_per_row:.2g} s a distinct caption: {run.origin}"


def _memory(
    captions: float,
    images: PlannedImages,
    params: Params,
    width: float,
    weights: float | None,
    processes: int,
) -> float | None:
    """Return the memory for an LLM (also on GPUs, while it loads) and the vectors of a shard, per process.

    None if the weights are unknown.
    """
    if weights is None:
        return None
    shard_captions = captions / max(images.images, 1) * min(images.images, params.download.shard_rows)
    llm_bytes = weights * WEIGHT_BYTES[params.embed_captions.precision]
    return processes * (llm_bytes + shard_captions * width * (FLOAT_BYTES + HALF_BYTES))
