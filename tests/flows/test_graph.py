"""Order and ranges of the stages, from dvc.yaml alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.errors import ConfigurationError
from components.storage.layout import STAGES
from flows.graph import between, read_graph, upstream
from tests.conftest import ROOT

BACKWARDS = """
stages:
  last: {cmd: x, deps: [b/one/part, code.py], outs: [c]}
  middle: {cmd: x, deps: [a], outs: [{b/one: {cache: false}}], metrics: [m.json]}
  first: {cmd: x, outs: [a/]}
  aside: {cmd: x, deps: [m.json]}
"""


def test_the_project_s_own_graph_runs_in_the_order_of_the_stages() -> None:
    graph = read_graph(ROOT / "dvc.yaml")
    assert tuple(graph) == STAGES
    assert graph["download"] == graph["base_models"] == frozenset()  # so they may run side by side
    assert upstream(graph, ["audit"]) == ["download", "base_models", "recaption"]


def test_a_stage_comes_after_those_whose_outputs_it_reads(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(BACKWARDS)
    graph = read_graph(tmp_path / "dvc.yaml")
    assert list(graph) == ["first", "middle", "last", "aside"]
    assert graph["last"] == graph["aside"] == {"middle"}
    assert between(graph, "middle", "last") == ["middle", "last"]
    assert upstream(graph, ["last"]) == ["first", "middle"]
    assert upstream(graph, ["middle", "last"]) == ["first"]


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        ("middle", "first", "comes after last stage first"),
        ("first", "lost", "no stage lost; expected one of"),
    ],
)
def test_an_impossible_range_is_refused(tmp_path: Path, first: str, last: str, message: str) -> None:
    (tmp_path / "dvc.yaml").write_text(BACKWARDS)
    with pytest.raises(ConfigurationError, match=message):
        between(read_graph(tmp_path / "dvc.yaml"), first, last)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: {a: {deps: [b], outs: [a]}, b: {deps: [a], outs: [b]}}", "in a circle"),
        ("stages: [", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_a_graph_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dvc.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_graph(tmp_path / "dvc.yaml")
