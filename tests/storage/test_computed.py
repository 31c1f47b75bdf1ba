"""Code that counts as the same, and what a stage has run with."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.errors import ConfigurationError
from components.storage import computed
from components.storage.computed import FILE, accept, code_of, remember_code
from components.storage.layout import STAGES


@pytest.fixture
def code(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The hash of each result's code, by its first module."""
    hashes: dict[str, str] = {}
    monkeypatch.setattr(computed, "code_hash", lambda modules: hashes.get(modules[0], "first"))
    return hashes


ARMS = "components.train_clip.training"


def test_every_maker_is_a_module_of_ours() -> None:
    for stage, makers in computed.MAKERS.items():
        assert stage in STAGES
        for modules in makers.values():
            for name in modules:
                assert computed.__file__, name
                assert (Path(computed.__file__).parents[2] / f"{name.replace('.', '/')}.py").is_file(), name


def test_accepted_code_counts_as_the_one_before(tmp_path: Path, code: dict[str, str]) -> None:
    remember_code(tmp_path, "train_clip")
    code[ARMS] = "second"
    assert code_of(tmp_path, "train_clip", "arms") == "second"
    assert accept(tmp_path, "train_clip") == ["arms"]
    assert code_of(tmp_path, "train_clip", "arms") == "first"
    assert code_of(tmp_path, "train_clip", "pixels") == "first"
    remember_code(tmp_path, "train_clip")
    code[ARMS] = "third"  # the one behind the second is still the first
    assert accept(tmp_path, "train_clip") == ["arms"]
    assert code_of(tmp_path, "train_clip", "arms") == "first"
    code[ARMS] = "second"
    assert code_of(tmp_path, "train_clip", "arms") == "first"
    code[ARMS] = "fourth"
    assert code_of(tmp_path, "train_clip", "arms") == "fourth"


def test_nothing_is_accepted_where_nothing_changed(tmp_path: Path, code: dict[str, str]) -> None:
    remember_code(tmp_path, "train_clip")
    assert accept(tmp_path, "train_clip") == []
    assert code_of(tmp_path, "train_clip", "arms") == "first"


def test_a_stage_that_never_ended_has_nothing_to_accept(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"{FILE} not found.*train_clip.*expected a finished run"):
        accept(tmp_path, "train_clip")


@pytest.mark.parametrize("stage", ["register", "training"])
def test_a_stage_without_computed_results_says_which_have_some(tmp_path: Path, stage: str) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"{stage} keeps no computed result; expected one of .*train_clip"
    ):
        accept(tmp_path, stage)
