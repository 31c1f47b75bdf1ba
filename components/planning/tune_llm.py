"""Cost of the tune_llm stage: hours if a run or the GPU's speed is known."""

from __future__ import annotations

import re

from components.planning.estimate import SECONDS_PER_HOUR, Bound, Estimate, Machine
from components.planning.images import planned_images
from components.planning.language_model import TUNING_SHARES, gpu_hours, llm_weights
from components.planning.past_throughput import Figure, PastThroughput
from components.running.model_weights import WEIGHT_BYTES
from components.settings.params import Params
from components.settings.tune_llm import Phase, TuneLlm

FLOAT_BYTES = 4
OF_ADAM = 4  # weight, gradient and two moments, if all weights are trained
CAPTION_BYTES = Figure(160.0, "`python -m bench.text_side`, 12 words each")
FORWARD = 2  # operations a token and weight; gradients of activations and of weights cost as much each
OF_PHASE = re.compile(r"tune_llm_phase(\d+)")
AUTHORS = (
    "the authors: one to two days on 8 A100 for CC3M, with Llama-3-8B, 10,000 steps of 512 and E5's longer "
    "texts (microsoft/LLM2CLIP, issue 22)"
)


def plan(params: Params, machine: Machine, measured: PastThroughput) -> Estimate:
    """Estimate the tune_llm stage; see `components.planning.estimate`."""
    settings = params.tune_llm
    planned = planned_images(params, measured)
    images = planned.images_of({"train"})
    all_captions = planned.captions_with(params.recaption.captioners)
    captions = sum(phase.steps * _captions_of_step(phase) for phase in settings.phases)
    captions += _masked_captions(settings)
    weights = llm_weights(params, measured.layout.inputs(params.download.inputs), machine)
    pairs = sum(phase.steps * phase.batch_size for phase in settings.phases)
    because = [
        f"{pairs:,.0f} pairs in {len(settings.phases)} phases are {pairs / max(images, 1):.1f} epochs "
        f"of {images:,.0f} train images, as download keeps; audit may drop some; text-only rows are extra",
        f"{captions:,.0f} captions go through the LLM, each at the cost of {passes(settings)} forward passes",
    ]
    run = measured.worked("tune_llm", lambda steps: _captions_of_run(steps, settings))
    if run:
        seconds = run.seconds_per_row
        hours, reason = (
            Bound("the LLM", captions * seconds / SECONDS_PER_HOUR),
            f"{seconds:.2g} s: {run.origin}",
        )
    else:
        hours, reason = gpu_hours(captions, FORWARD * passes(settings), weights, machine, TUNING_SHARES)
    because.append(reason)
    if settings.method == "lora":
        because.append(AUTHORS)
    reader_processes = (
        machine.gpus + 1 if machine.gpus > 1 else 1
    )  # the parent process reads captions as well
    times = (
        f"{reader_processes} times, for one process a GPU and their parent, " if reader_processes > 1 else ""
    )
    because.append(
        f"memory: the weights, and {times}{CAPTION_BYTES.value:g} bytes for each of {all_captions:,.0f} "
        f"captions at most: {CAPTION_BYTES.origin}"
    )
    # of a weight: with LoRA they are float32 when saved, on the CPU
    bytes_per_weight = FLOAT_BYTES * (OF_ADAM if settings.method == "full" else 1)
    caption_memory = all_captions * CAPTION_BYTES.value
    return Estimate(
        rows=captions,
        unit="captions",
        requests=0,
        bytes_in=Figure(0, "only captions, from this disk"),
        bytes_out=Figure(weights.value * FLOAT_BYTES if weights else 0, "to this disk"),
        cpu_hours=None,
        bounds=[hours],
        memory_bytes=weights.value * bytes_per_weight + reader_processes * caption_memory
        if weights
        else None,
        because=because,
        cautions=[
            f"weights are on each GPU, {_gpu_bytes(settings)}, or shared by all with "
            "LLM2CLIP_TRAINING_LAYOUT=sharded; the activations of a chunk are extra"
        ],
    )


def _gpu_bytes(settings: TuneLlm) -> str:
    """Return in words the peak bytes of a weight on a GPU (`held_precision`)."""
    if settings.method == "full":
        return f"{FLOAT_BYTES * OF_ADAM} bytes each"
    if settings.precision == "fp32" or settings.mntp:
        return f"{FLOAT_BYTES} bytes each"
    half = f"{WEIGHT_BYTES['bf16']} bytes each where they were published in bf16"
    # `auto` is resolved on the machine that tunes
    return (
        f"at most {FLOAT_BYTES} bytes each (auto may be bf16: {half})"
        if settings.precision == "auto"
        else half
    )


def _captions_of_step(phase: Phase) -> int:
    mined_negatives = phase.mined_negatives.per_pair if phase.mined_negatives else 0
    has_written_negatives = any(kind.negative for kind in phase.pairs)
    return phase.batch_size * (2 + mined_negatives + has_written_negatives)


def _masked_captions(settings: TuneLlm) -> int:
    return settings.mntp.steps * settings.mntp.batch_size if settings.mntp else 0


def passes(settings: TuneLlm) -> int:
    """Return the cost of a step in forward passes."""
    backward = 1 if settings.method == "lora" else 2
    return 1 + backward + settings.gradient_cache + settings.gradient_checkpointing


def _captions_of_run(steps: dict[str, int], settings: TuneLlm) -> int:
    """Return the captions of the finished steps of a run, by phase; 0 if it had other phases."""
    captions = 0
    for work, count in steps.items():
        if work == "tune_llm_mntp" and settings.mntp:
            captions += count * settings.mntp.batch_size
        elif match := OF_PHASE.fullmatch(work):
            phase_number = int(match[1])
            if phase_number > len(settings.phases):
                return 0
            captions += count * _captions_of_step(settings.phases[phase_number - 1])
    return captions
