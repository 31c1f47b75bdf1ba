"""How wide a params file's LLM is and how many weights it has, where params or a folder of inputs say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.running.model_weights import weights_in
from components.running.planning import SECONDS_PER_HOUR, TERA, Bound, Figure, Machine
from components.settings.base_models import FolderModel, MadeLlm
from components.settings.params import Params
from components.storage.atomic import read_json

TOKENS = 64.0  # of a caption
# of a GPU's peak of 989 TFLOP/s, seen on one H100 with 1.24e9 weights, bf16: captions of 14 to 53 tokens were
# embedded at 21 to 38 %; LoRA in chunks of 64 short captions waits for kernels to start
EMBEDDING_SHARE, TUNING_SHARE = 0.3, 0.06
ASSUMED_WIDTH = Figure(4096, "assumed, as Llama-3-8B has, for base_models.llm does not say so here")
LAYER_MATRICES = 4  # of attention, each width x width; the feed-forward part has three


def llm_width(params: Params, inputs: Path) -> Figure:
    """Return the numbers of one of its embeddings."""
    llm = params.base_models.llm
    if isinstance(llm, MadeLlm):
        return Figure(llm.width, "base_models.llm")
    width = config_in(inputs / llm.path).get("hidden_size") if isinstance(llm, FolderModel) else None
    return Figure(width, str(llm.path)) if width and isinstance(llm, FolderModel) else ASSUMED_WIDTH


def llm_weights(params: Params, inputs: Path, machine: Machine) -> Figure | None:
    """Return its weights; those that the user told where the model is not here."""
    llm = params.base_models.llm
    if isinstance(llm, MadeLlm):
        layer = LAYER_MATRICES * llm.width**2 + 3 * llm.width * llm.feed_forward
        return Figure(llm.layers * layer + llm.vocabulary_size * llm.width, "base_models.llm")
    count = weights_in(inputs / llm.path) if isinstance(llm, FolderModel) else 0
    if count and isinstance(llm, FolderModel):
        return Figure(count, str(llm.path))
    return Figure(machine.llm_weights, "as you say") if machine.llm_weights else None


def gpu_hours(
    captions: float, flop_per_weight: int, weights: Figure | None, machine: Machine, busy_share: float
) -> tuple[Bound, str]:
    """Return how long the GPUs of one machine take, and why.

    Args:
        captions: That go through the LLM.
        flop_per_weight: For each token: 2 forward, 2 to 4 backward.
        weights: Of the LLM.
        machine: Its GPUs, and how fast one is.
        busy_share: Of a GPU's peak.
    """
    if weights is None or machine.gpu_flops is None:
        lacks = [
            *(["--gpu-tflops"] if machine.gpu_flops is None else []),
            *(["--llm-billions"] if weights is None else []),
        ]
        return Bound("GPU", None, f"give {' and '.join(lacks)}, or run a part"), (
            "nobody has measured this LLM on this machine"
        )
    gpus = max(1, machine.gpus)
    flop = captions * TOKENS * flop_per_weight * weights.value
    hours = flop / (machine.gpu_flops * busy_share * gpus) / SECONDS_PER_HOUR
    return Bound("GPU", hours), (
        f"assumed: {TOKENS:g} tokens a caption, {flop_per_weight} operations a token for each of "
        f"{weights.value:,.0f} weights ({weights.origin}), at {busy_share:.0%} of "
        f"{machine.gpu_flops / TERA:g} TFLOP/s{f' on each of {gpus} GPUs' if gpus > 1 else ''}"
    )


def config_in(folder: Path) -> dict[str, Any]:
    """Return a model's config; empty where there is none."""
    path = folder / "config.json"
    return read_json(path) if path.is_file() else {}
