"""bf16 is done where it is asked for; which devices are fast at it, and one that is slow is named once."""

from __future__ import annotations

import logging

import pytest
import torch

from components.ml import precision
from components.ml.precision import autocast, fast_precision, is_bf16_fast

CPU = torch.device("cpu")


def product(kind: str) -> torch.dtype:
    with autocast(CPU, kind):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


AVX2 = {"avx512_f": False, "avx512_bf16": False, "amx_bf16": False}
SKYLAKE = {**AVX2, "avx512_f": True}
ZEN4 = {**SKYLAKE, "avx512_bf16": True}
SAPPHIRE_RAPIDS = {**ZEN4, "amx_bf16": True}


def processor(monkeypatch: pytest.MonkeyPatch, architecture: str, **has: bool) -> None:
    known = {"architecture": architecture, **has}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    precision._warn_if_slow.cache_clear()


@pytest.mark.parametrize("has", [AVX2, SKYLAKE])
def test_a_processor_without_instructions_for_it_is_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, has: dict[str, bool]
) -> None:
    processor(monkeypatch, "x86_64", **has)
    assert not is_bf16_fast()
    assert fast_precision("cpu") == "fp32"
    assert product("fp32") == torch.float32
    assert not caplog.records
    assert [product("bf16"), product("bf16")] == [torch.bfloat16] * 2
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "precision: fp32" in caplog.text


@pytest.mark.parametrize(
    ("architecture", "has", "expected"),
    [
        ("x86_64", ZEN4, "bf16"),
        ("x86_64", SAPPHIRE_RAPIDS, "bf16"),
        ("aarch64", {"bf16": True}, "fp32"),  # nobody measured it
    ],
)
def test_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    architecture: str,
    has: dict[str, bool],
    expected: str,
) -> None:
    processor(monkeypatch, architecture, **has)
    assert is_bf16_fast() == (expected == "bf16")
    assert fast_precision("cpu") == expected
    assert product("bf16") == torch.bfloat16
    assert not caplog.records


@pytest.mark.parametrize(("is_native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_a_gpu_that_only_emulates_bf16_is_not_fast_at_it(
    monkeypatch: pytest.MonkeyPatch, is_native: bool, expected: str
) -> None:
    def is_supported(including_emulation: bool = True) -> bool:
        return including_emulation or is_native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    processor(monkeypatch, "x86_64", **(AVX2 if is_native else ZEN4))
    assert fast_precision("cuda") == expected


def test_a_device_that_nobody_knows_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "is_bf16_fast", lambda: True)
    assert fast_precision("mps") == "fp32"


def test_what_is_not_settled_yet_is_not_computed_in_any() -> None:
    with pytest.raises(KeyError, match="auto"):
        product("auto")


def test_this_processor_says_what_it_can() -> None:
    assert is_bf16_fast() in (True, False)
