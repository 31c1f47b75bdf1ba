"""Params of tune_llm that would be silently wrong are refused."""

from __future__ import annotations

from typing import Any

import pytest

from components.settings.params import Params
from components.settings.tune_llm import TuneLlm


def changed(smoke: Params, **update: Any) -> TuneLlm:
    return TuneLlm.model_validate({**smoke.tune_llm.model_dump(), **update})


@pytest.mark.parametrize("template", ["no text", "{text} and {text}"])
def test_the_template_holds_the_text_once(smoke: Params, template: str) -> None:
    encoding = smoke.tune_llm.encoding.model_dump()
    with pytest.raises(ValueError, match="expected {text} once, found it [02] times"):
        changed(smoke, encoding={**encoding, "template": template})
    assert changed(smoke, encoding={**encoding, "template": "{a} {text}"}).encoding.template == "{a} {text}"


def test_two_tasks_of_one_name_are_refused(smoke: Params) -> None:
    task = smoke.tune_llm.caption_retrieval[0].model_dump()
    with pytest.raises(ValueError, match=f"{task['name']} stands twice; expected a name for each"):
        changed(smoke, caption_retrieval=[task, {**task, "first": task["second"]}])


def test_pairs_that_would_have_one_name_are_refused(smoke: Params) -> None:
    phase = smoke.tune_llm.phases[0].model_dump()
    pair = {**phase["pairs"][0], "first": "short", "second": "dense", "query_prompt": "find: "}
    other = {**pair, "query_prompt": "say: "}
    with pytest.raises(ValueError, match="pairs of short and dense stand twice; expected once in a phase"):
        changed(smoke, phases=[{**phase, "pairs": [pair, other]}])
    one, another = ({**phase, "pairs": [kind]} for kind in (pair, other))
    with pytest.raises(ValueError, match="pairs of short and dense have two query prompts; expected one"):
        changed(smoke, phases=[one, another])
    assert len(changed(smoke, phases=[one, one]).phases) == 2
