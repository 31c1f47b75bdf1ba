"""One name, seven places: folder, DVC stage, params section, metrics, costs, test folder, README."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, TypeAdapter
from ruamel.yaml import YAML

from components.settings.params import Params, load_params
from components.storage.layout import STAGES
from tests.code_deps import ROOT, code_deps, sections_of

PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
NO_STAGES = {"cli", "http", "ml", "planning", "running", "settings", "sources", "storage"}


@pytest.fixture(scope="module")
def graph() -> dict[str, Any]:
    tree: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text("utf-8"))
    return tree


def test_every_place_names_the_same_stages(graph: dict[str, Any]) -> None:
    folders = {p.name for p in (ROOT / "components").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert tuple(graph["stages"]) == STAGES
    assert folders - NO_STAGES == set(STAGES)
    assert set(Params.model_fields) - {"preset", "seed"} == set(STAGES)
    assert {p.name for p in (ROOT / "tests").iterdir()} >= set(STAGES)
    assert graph["metrics"] == [f"costs/{stage}.json" for stage in STAGES]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_declares_what_it_is(graph: dict[str, Any], stage: str) -> None:
    node = graph["stages"][stage]
    assert node["cmd"] == f"exec python -m components {stage}"
    assert node["outs"] == [f"artifacts/{stage}"]
    assert node["metrics"] == [f"metrics/{stage}.json"]
    assert stage in node["params"]
    module = importlib.import_module(f"components.{stage}.stage")
    assert "Reads" in str(module.__doc__) and "Writes" in str(module.__doc__)
    assert list(module.run.__annotations__) == ["params", "env", "return"]


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_watches_every_code_file_of_a_stage(graph: dict[str, Any], stage: str) -> None:
    node = graph["stages"][stage]
    declared = [dep for dep in node["deps"] if dep.startswith("components/")]
    assert declared == code_deps(stage, sections_of(node)), "run `python -m tests.code_deps`"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_only_params_it_declares(graph: dict[str, Any], stage: str) -> None:
    declared = graph["stages"][stage]["params"]
    for path in sorted((ROOT / "components" / stage).rglob("*.py")):
        for read in _params_read(path):
            if read.startswith("model_dump"):  # all of them
                assert set(STAGES) <= set(declared), path
                continue
            assert any(f"{read}.".startswith(f"{key}.") for key in declared), f"{path} reads params.{read}"


def _params_read(path: Path) -> set[str]:
    """Return the longest dotted names read from `params`, where it is all of params.yaml, in a file."""
    found = set()
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and "params: Params" in ast.unparse(node.args)
    ]
    for node in [inner for function in functions for inner in ast.walk(function)]:
        text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if match := re.fullmatch(r"params\.([a-z_.]+)", text):
            found.add(match[1])
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_are_valid_and_named_like_their_file(path: Path) -> None:
    assert load_params(path).preset == path.stem


def test_params_yaml_is_the_demo() -> None:
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "presets" / "demo.yaml").read_bytes()


@pytest.mark.parametrize("path", [*PRESETS, ROOT / "params.yaml"], ids=lambda path: path.stem)
def test_what_dvc_declares_stands_in_every_params_file(graph: dict[str, Any], path: Path) -> None:
    """DVC does not see defaults: it stops where a declared key is absent."""
    tree = YAML(typ="safe").load(path.read_text("utf-8"))
    for node in graph["stages"].values():
        for name in node["params"]:
            value = tree
            for key in name.split("."):
                assert key in value, f"{path.name}: {name}"
                value = value[key]


@pytest.mark.parametrize(("preset", "lines"), [("demo", 200), ("cc3m", 140)])
def test_a_preset_holds_what_a_reader_decides(preset: str, lines: int) -> None:
    assert len((ROOT / "presets" / f"{preset}.yaml").read_text("utf-8").splitlines()) <= lines


def test_every_default_is_a_value_that_its_key_may_have() -> None:
    """pydantic does not check defaults."""
    seen: list[type[BaseModel]] = [Params]
    for model in seen:
        for field in model.model_fields.values():
            seen += [found for found in _models(field.annotation) if found not in seen]
            if not field.is_required():
                value = field.get_default(call_default_factory=True)
                checked: Any = Annotated[field.annotation, field]
                TypeAdapter(checked).validate_python(value)
    assert len(seen) > len(STAGES)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models(part)]


def test_files_hold_no_banned_module_names() -> None:
    banned = {"utils", "common", "helpers", "base", "manager", "core"}
    assert not [path for path in (ROOT / "components").rglob("*.py") if path.stem in banned]
