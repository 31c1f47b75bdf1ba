"""Precision: fp32 or bf16, of weights and of computing."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
log = logging.getLogger(__name__)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Run what follows in `precision`: `fp32`, or `bf16` where torch deems it safe.

    Once a process, a warning says that bf16 is slow on the processor at hand.
    """
    is_half = DTYPES[precision] is torch.bfloat16
    if is_half and device.type == "cpu":
        _warn_if_slow()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_half)


def is_bf16_fast() -> bool:
    """Say whether this processor is known to be faster in bf16 than in float32: it has instructions for it.

    On an EPYC that has them products took a quarter of the time. Without them oneDNN emulates bf16 by
    AVX-512, three to four times slower than float32 (its guide to data types), and with AVX2 alone torch has
    loops that took eleven times as long (`bench.caption_retrieval`). Of others than x86 nothing was measured.
    """
    known = torch.cpu.get_capabilities()
    return _is_x86() and bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def fast_precision(device: str) -> str:
    """Return `bf16` where a device computes faster in it, as far as is known, else `fp32`.

    Args:
        device: `cpu`, or `cuda` for the current GPU.
    """
    if device == "cuda":  # GPUs before Ampere only emulate it, which torch counts as support too
        is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        is_fast = device == "cpu" and is_bf16_fast()
    return "bf16" if is_fast else "fp32"


def _is_x86() -> bool:
    return bool(torch.cpu.get_capabilities()["architecture"] == "x86_64")


@cache
def _warn_if_slow() -> None:
    if _is_x86() and not is_bf16_fast():
        log.warning(
            "precision is bf16, and this processor has no instructions for it: float32 is several times "
            "faster here; set precision: fp32 in params, or LLM2CLIP_DEVICE=cuda on a machine with a GPU"
        )
