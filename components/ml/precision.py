"""`fp32` or `bf16`: what tensors are held in, and what is computed in."""

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
    is_half = precision == "bf16"
    if is_half and device.type == "cpu":
        _warn_if_slow()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_half)


def is_bf16_fast() -> bool:
    """Say whether bf16 takes no longer than float32 on this processor, as far as is known.

    oneDNN multiplies matrices in bf16 from AVX-512 on; without it torch has loops that took eleven times as
    long as float32 (`bench.caption_retrieval` on an EPYC with AVX2).
    """
    known = torch.cpu.get_capabilities()
    return bool(known["avx512_f"]) if known["architecture"] == "x86_64" else True


@cache
def _warn_if_slow() -> None:
    if not is_bf16_fast():
        log.warning(
            "precision is bf16, and this processor has no AVX-512: float32 is many times faster here; set "
            "precision: fp32 in params, or LLM2CLIP_DEVICE=cuda on a machine with a GPU"
        )
