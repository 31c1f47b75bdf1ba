"""Estimate an LLM's width and weights from params or its folder."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from pathlib import Path
from typing import Any

from components.planning.estimate import SECONDS_PER_HOUR, TERA, Bound, Machine
from components.planning.past_throughput import Figure
from components.running.model_weights import weights_in
from components.settings.base_models import FolderModel, MadeLlm
from components.settings.params import Params
from components.storage.atomic import read_json

TOKENS = 64.0  # of a caption
# share of a GPU's peak of 989 TFLOP/s by weights of the LLM, on one H100 with `bench.large_llm`, bf16.
# Embedding: captions of 15 tokens; captions of 57 were faster. LoRA in chunks of 64 short captions waits for
# kernels to start; half as many chunks reached a quarter to a half more.
EMBEDDING_SHARES = {1.24e9: 0.35, 7.5e9: 0.45}
TUNING_SHARES = {1.24e9: 0.07, 7.5e9: 0.21}
ASSUMED_WIDTH = Figure(4096, "assumed, that of Llama-3-8B; base_models.llm does not state it")
LAYER_MATRICES = 4  # of attention, each width x width; the feed-forward part has three more


def llm_width(params: Params, inputs: Path) -> Figure:
    """Return the width of an embedding of the LLM."""
    llm = params.base_models.llm
    if isinstance(llm, MadeLlm):
        return Figure(llm.width, "base_models.llm")
    width = config_in(inputs / llm.path).get("hidden_size") if isinstance(llm, FolderModel) else None
    return Figure(width, str(llm.path)) if width and isinstance(llm, FolderModel) else ASSUMED_WIDTH


def llm_weights(params: Params, inputs: Path, machine: Machine) -> Figure | None:
    """Return the number of weights of the LLM; as the user said if its folder does not exist."""
    llm = params.base_models.llm
    if isinstance(llm, MadeLlm):
        layer = LAYER_MATRICES * llm.width**2 + 3 * llm.width * llm.feed_forward
        return Figure(llm.layers * layer + llm.vocabulary_size * llm.width, "base_models.llm")
    count = weights_in(inputs / llm.path) if isinstance(llm, FolderModel) else 0
    if count and isinstance(llm, FolderModel):
        return Figure(count, str(llm.path))
    return Figure(machine.llm_weights, "as you say") if machine.llm_weights else None


def gpu_hours(
    captions: float,
    flop_per_weight: int,
    weights: Figure | None,
    machine: Machine,
    busy_shares: Mapping[float, float],
) -> tuple[Bound, str]:
    """Return the hours of the GPUs of one machine, and the reason in words.

    Args:
        captions: Number of captions that go through the LLM.
        flop_per_weight: Operations for each token and weight: 2 forward, 2 to 4 backward.
        weights: Number of weights of the LLM.
        machine: Gives the number of GPUs and their speed.
        busy_shares: Share of a GPU's peak by weights of an LLM; the nearest LLM counts.
    """
    if weights is None or machine.gpu_flops is None:
        missing_options = [
            *(["--gpu-tflops"] if machine.gpu_flops is None else []),
            *(["--llm-billions"] if weights is None else []),
        ]
        return Bound("GPU", None, f"give {' and '.join(missing_options)}, or run a part"), (
            "this LLM was not measured on this machine"
        )
    gpus, size = max(1, machine.gpus), weights.value
    busy_share = busy_shares[min(busy_shares, key=lambda measured: abs(log(measured / size)))]
    flop = captions * TOKENS * flop_per_weight * weights.value
    hours = flop / (machine.gpu_flops * busy_share * gpus) / SECONDS_PER_HOUR
    return Bound("GPU", hours), (
        f"assumed: {TOKENS:g} tokens a caption, {flop_per_weight} operations a token for each of "
        f"{weights.value:,.0f} weights ({weights.origin}), at {busy_share:.0%} of "
        f"{machine.gpu_flops / TERA:g} TFLOP/s{f' on each of {gpus} GPUs' if gpus > 1 else ''}"
    )


def config_in(folder: Path) -> dict[str, Any]:
    """Return the config of a model; empty without config.json."""
    path = folder / "config.json"
    return read_json(path) if path.is_file() else {}
