"""bf16 is done where it is asked for, and a processor that is slow at it is named once."""

from __future__ import annotations

import logging

import pytest
import torch

from components.ml import precision
from components.ml.precision import autocast, is_bf16_fast

CPU = torch.device("cpu")


def product(kind: str) -> torch.dtype:
    with autocast(CPU, kind):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


def processor(monkeypatch: pytest.MonkeyPatch, architecture: str, **has: bool) -> None:
    known = {"architecture": architecture, **has}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    precision._warn_if_slow.cache_clear()


def test_a_processor_without_avx512_is_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    processor(monkeypatch, "x86_64", avx512_f=False)
    assert not is_bf16_fast()
    assert product("fp32") == torch.float32
    assert not caplog.records
    assert [product("bf16"), product("bf16")] == [torch.bfloat16] * 2
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "precision: fp32" in caplog.text


@pytest.mark.parametrize(("architecture", "has"), [("x86_64", {"avx512_f": True}), ("aarch64", {})])
def test_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    architecture: str,
    has: dict[str, bool],
) -> None:
    processor(monkeypatch, architecture, **has)
    assert is_bf16_fast()
    assert product("bf16") == torch.bfloat16
    assert not caplog.records


def test_this_processor_says_what_it_can() -> None:
    assert is_bf16_fast() in (True, False)
