"""Cost of the tune_llm stage: hours where a run or the GPU's speed is known."""

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
OF_ADAM = 4  # weight, gradient and two moments, where all weights learn
CAPTION_BYTES = Figure(160.0, "`python -m bench.text_side`, 12 words each")
FORWARD = 2  # operations a token and weight; the gradient of activations costs as much, that of weights too
OF_PHASE = re.compile(r"tune_llm(?:_member\d+)?_phase(\d+)")
AUTHORS = (
    "the authors: one to two days on 8 A100 for CC3M, with Llama-3-8B, 10,000 steps of 512 and E5's longer "
    "texts (microsoft/LLM2CLIP, issue 22)"
)


def plan(params: Params, machine: Machine, measured: PastThroughput) -> Estimate:
    """Estimate; see `components.planning.estimate`."""
    own = params.tune_llm
    planned = planned_images(params, measured)
    images = planned.images_of({"train"})
    held_captions = planned.captions_with(params.recaption.captioners)
    of_member = sum(phase.steps * _captions_of_step(phase) for phase in own.phases)
    captions = own.members * of_member + _masked_captions(own)
    weights = llm_weights(params, measured.layout.inputs(params.download.inputs), machine)
    pairs = sum(phase.steps * phase.batch_size for phase in own.phases)
    each = f"each of {own.members} members sees " if own.members > 1 else ""
    because = [
        f"{each}{pairs:,.0f} pairs in {len(own.phases)} phases are {pairs / max(images, 1):.1f} epochs of "
        f"{images:,.0f} train images: what download keeps and audit may drop; text-only rows come on top",
        f"{captions:,.0f} captions go through the LLM, {passes(own)} times its forward pass each",
    ]
    run = measured.worked("tune_llm", lambda steps: _captions_of_run(steps, own))
    if run:
        seconds = run.seconds_per_row
        hours, why = Bound("the LLM", captions * seconds / SECONDS_PER_HOUR), f"{seconds:.2g} s: {run.origin}"
    else:
        hours, why = gpu_hours(captions, FORWARD * passes(own), weights, machine, TUNING_SHARES)
    because.append(why)
    if own.method == "lora":
        because.append(AUTHORS)
    holders = machine.gpus + 1 if machine.gpus > 1 else 1  # who starts them reads captions as well
    times = f"{holders} times, for a process a GPU and who starts them, " if holders > 1 else ""
    because.append(
        f"memory: the weights, and {times}{CAPTION_BYTES.value:g} bytes for each of {held_captions:,.0f} "
        f"captions at most: {CAPTION_BYTES.origin}"
    )
    # of a weight: LoRA's are float32 when they are saved, on the CPU
    held = FLOAT_BYTES * (OF_ADAM if own.method == "full" else 1)
    if own.members > 1:  # when they are joined, all are there and the joined one
        held = max(held, FLOAT_BYTES * (own.members + own.members**2))
    of_captions = held_captions * CAPTION_BYTES.value
    return Estimate(
        rows=captions,
        unit="captions",
        requests=0,
        bytes_in=Figure(0, "but captions from this disk"),
        # at most: joined matrices hold zeros between members, embeddings do not
        bytes_out=Figure(weights.value * FLOAT_BYTES * own.members**2 if weights else 0, "to this disk"),
        cpu_hours=None,
        bounds=[hours],
        memory_bytes=weights.value * held + holders * of_captions if weights else None,
        because=because,
        cautions=[
            f"weights are on each GPU, {_gpu_bytes(own)}, or shared by all with "
            "LLM2CLIP_TRAINING_LAYOUT=sharded; a chunk's activations come on top"
        ],
    )


def _gpu_bytes(own: TuneLlm) -> str:
    """Say how many bytes a weight takes, the most at any time (`held_precision`)."""
    if own.method == "full":
        return f"{FLOAT_BYTES * OF_ADAM} bytes each"
    if own.precision == "fp32" or own.mntp:
        return f"{FLOAT_BYTES} bytes each"
    half = f"{WEIGHT_BYTES['bf16']} bytes each where they were published in bf16"
    # what auto comes to is for the machine that tunes to say
    return f"at most {FLOAT_BYTES} bytes each (auto may be bf16: {half})" if own.precision == "auto" else half


def _captions_of_step(phase: Phase) -> int:
    mined = phase.mined_negatives.per_pair if phase.mined_negatives else 0
    written = any(kind.negative for kind in phase.pairs)
    return phase.batch_size * (2 + mined + written)


def _masked_captions(own: TuneLlm) -> int:
    return own.mntp.steps * own.mntp.batch_size if own.mntp else 0


def passes(own: TuneLlm) -> int:
    """Return how many forward passes a step costs as much as."""
    backward = 1 if own.method == "lora" else 2
    return 1 + backward + own.gradient_cache + own.gradient_checkpointing


def _captions_of_run(steps: dict[str, int], own: TuneLlm) -> int:
    """Return the captions of the steps that a run took, by what they were of; 0 if it had other phases."""
    captions = 0
    for work, count in steps.items():
        if work == "tune_llm_mntp" and own.mntp:
            captions += count * own.mntp.batch_size
        elif found := OF_PHASE.fullmatch(work):
            number = int(found[1])
            if number > len(own.phases):
                return 0
            captions += count * _captions_of_step(own.phases[number - 1])
    return captions
