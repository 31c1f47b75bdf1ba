"""Choose the base LLM's dtype."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError

from components.running.model_weights import is_stored_in_bf16
from components.settings.tune_llm import TuneLlm


def held_precision(own: TuneLlm, llm: Path) -> str:
    """Return `bf16` where that loses nothing, else `fp32`.

    Weights beside a LoRA do not learn, so those that were published in bf16 need no more bytes at any time.
    (PEFT then starts a LoRA's A from the same draws, rounded to bf16.)
    What MNTP merges into them would be lost in bf16, and what learns itself needs float32.

    Args:
        own: How it is tuned.
        llm: Folder of the base model.
    """
    is_frozen = own.method == "lora" and own.mntp is None
    try:
        return "bf16" if is_frozen and own.precision == "bf16" and is_stored_in_bf16(llm) else "fp32"
    except SafetensorError:  # who loads it says what is wrong
        return "fp32"
