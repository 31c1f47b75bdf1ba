"""The environment says where work happens and cannot change a result."""

from __future__ import annotations

import pytest

from components.faults import ConfigurationFault
from components.settings.environment import load_environment


def test_unknown_name_is_refused_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM2CLIP_REGISTRI", "x")
    with pytest.raises(ConfigurationFault, match="LLM2CLIP_REGISTRI; did you mean LLM2CLIP_REGISTRY"):
        load_environment()


def test_params_cannot_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM2CLIP_TRAIN_CLIP__STEPS", "5")
    with pytest.raises(ConfigurationFault, match="training values live in params.yaml"):
        load_environment()


@pytest.mark.parametrize("value", ["-1", "many"])
def test_bad_value_names_the_variable(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LLM2CLIP_THREADS", value)
    with pytest.raises(ConfigurationFault, match="LLM2CLIP_THREADS"):
        load_environment()


def test_a_bad_secret_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM2CLIP_CAPTION_ENDPOINT_KEI", "hunter2")
    with pytest.raises(ConfigurationFault, match="did you mean LLM2CLIP_CAPTION_ENDPOINT_KEY") as fault:
        load_environment()
    assert "hunter2" not in str(fault.value)
    monkeypatch.delenv("LLM2CLIP_CAPTION_ENDPOINT_KEI")
    monkeypatch.setenv("LLM2CLIP_CAPTION_ENDPOINT_KEY", "hunter2")
    assert "hunter2" not in repr(load_environment())


def test_values_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM2CLIP_REGISTRY", "s3://bucket/prefix")
    assert load_environment().registry == "s3://bucket/prefix"
