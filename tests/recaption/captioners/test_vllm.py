"""Our side of vLLM, which is not installed and not run here."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from components.errors import ConfigurationError
from components.settings.params import Params
from components.storage.layout import Layout
from tests.recaption.chat_server import caption_of
from tests.recaption.project import (
    run_with,
)
from tests.recaption.prompted import ASKED, PROMPTED, texts

VLLM: dict[str, Any] = {
    **PROMPTED, "kind": "vllm", "name": "fast", "model": "llava", "context_tokens": 512, "precision": "bf16",
}  # fmt: skip


def test_without_vllm_its_kind_says_what_to_do(smoke: Params, llava: Layout) -> None:
    with pytest.raises(ConfigurationError, match=r"fast is of kind vllm, .*pip install -e \.\[vllm\]"):
        run_with(smoke, llava, VLLM)


class StandIn:
    """What `vllm.LLM` is to us, to see our side of it: it runs no model."""

    def __init__(self, **settings: Any) -> None:
        assert settings.pop("model").endswith("vision_language/llava")
        assert settings == {
            "dtype": "bfloat16",
            "max_model_len": 512,
            "limit_mm_per_prompt": {"image": 1},
            "trust_remote_code": False,
        }

    def chat(self, messages: list[Any], sampling: list[Any], *, use_tqdm: bool) -> list[Any]:
        assert len(messages) == len(sampling) and not use_tqdm
        written = [
            SimpleNamespace(
                text=caption_of({"messages": message, "seed": one.seed}),
                finish_reason="length" if one.max_tokens == 24 else "stop",
            )
            for message, one in zip(messages, sampling, strict=True)
        ]
        return [SimpleNamespace(outputs=[one]) for one in written]


def test_what_vllm_is_handed_and_what_becomes_of_its_outputs(
    smoke: Params, llava: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = SimpleNamespace(LLM=StandIn, SamplingParams=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    metrics = run_with(smoke, llava, VLLM)
    assert metrics["columns"]["fast_short"]["rows_out"] == ASKED
    assert metrics["columns"]["fast_dense"]["rejected"] == {"truncated": ASKED}
    assert len(set(texts(llava, "fast_short").values())) == ASKED
