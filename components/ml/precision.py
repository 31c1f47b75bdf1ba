"""Precision: fp32 or bf16, of weights and of computation."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
log = logging.getLogger(__name__)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return a context that computes in `precision`: `fp32`, or `bf16` by autocast.

    Warns once a process if bf16 is slow on this processor.
    """
    is_half = DTYPES[precision] is torch.bfloat16
    if is_half and device.type == "cpu":
        _warn_if_slow()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_half)


def is_bf16_fast() -> bool:
    """Return True if this processor has bf16 instructions, which make bf16 faster than float32.

    On an EPYC with them matrix products took a quarter of the time. Without them oneDNN emulates bf16 by
    AVX-512, three to four times slower than float32 (its guide to data types). With only AVX2, torch has
    loops that took eleven times as long (`bench.caption_retrieval`). Only x86 was measured.
    """
    capabilities = torch.cpu.get_capabilities()
    return _is_x86() and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def fast_precision(device: str) -> str:
    """Return `bf16` if a device is known to compute faster in it, else `fp32`.

    Args:
        device: `cpu`, or `cuda` for the current GPU.
    """
    if device == "cuda":  # torch also counts emulation, as on GPUs before Ampere, as support
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
