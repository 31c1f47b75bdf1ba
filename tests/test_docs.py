"""The pages of docs/ say what is there: examples that load, output that commands print, links that lead."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from components.cli.main import app
from components.settings.params import Params, load_params
from components.settings.recaption import PromptedCaptioner
from tests.project import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text("utf-8")


def test_every_page_is_in_the_navigation_and_every_link_leads_somewhere() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for path in PAGES:
        assert path.relative_to(ROOT / "docs").as_posix() in navigation, path
        for link in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", path.read_text("utf-8")):
            assert (path.parent / link).is_file(), f"{path}: {link}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_yaml_example_is_yaml(path: Path) -> None:
    for example in re.findall(r"^ *```yaml\n(.*?)^ *```", path.read_text("utf-8"), re.DOTALL | re.MULTILINE):
        assert YAML(typ="safe").load(example), example


def test_the_sources_of_the_data_page_are_params(smoke: Params) -> None:
    examples = re.findall(r"```yaml\n(sources:.*?)```", page("data"), re.DOTALL)
    (folder,) = re.findall(r"^ *sources:\n(.*?)^ *```", page("howto/folder"), re.DOTALL | re.MULTILINE)
    listed = [source for text in examples for source in YAML(typ="safe").load(text)["sources"]]
    listed += YAML(typ="safe").load(folder)
    for source in listed:
        tree = smoke.model_dump()
        tree["download"]["sources"] = [source]
        Params.model_validate(tree)
    table = page("data").split("## Sources")[1].split("Several sources")[0]
    kinds = {
        kind
        for line in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for kind in re.findall("`(.*?)`", line)
    }
    assert {source["kind"] for source in listed} <= kinds


def test_the_captioners_are_params(tmp_path: Path) -> None:
    yaml = YAML(typ="safe")
    demo: dict[str, Any] = yaml.load((ROOT / "presets" / "demo.yaml").read_text("utf-8"))
    (example,) = re.findall(r"```yaml\n(base_models:.*?)```", page("captioners"), re.DOTALL)
    for section, values in yaml.load(example).items():
        demo[section] |= values
    path = tmp_path / "params.yaml"
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(demo, file)
    (captioner,) = load_params(path).recaption.captioners
    assert isinstance(captioner, PromptedCaptioner)
    for kind in captioner.prompts:
        assert f"{captioner.name}_{kind}" in page("captioners")


def test_the_captioners_name_every_kind() -> None:
    kinds = set(
        re.findall(r'kind: Literal\["(\w+)"\]', (ROOT / "components/settings/recaption.py").read_text())
    )
    table = page("captioners").split("```")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == kinds


def test_the_text_encoders_are_params(smoke: Params) -> None:
    (example,) = re.findall(r"```yaml\n(embed_captions:.*?)```", page("text-encoders"), re.DOTALL)
    tree = smoke.model_dump()
    source = {"name": "minilm", "source": {"kind": "folder", "path": "minilm"}}
    tree["base_models"]["text_encoders"] = [source]
    tree["embed_captions"] |= YAML(typ="safe").load(example)["embed_captions"]
    others = Params.model_validate(tree).embed_captions.others
    table = page("text-encoders").split("```")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == {one.kind for one in others}


def test_the_plan_is_what_the_command_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    monkeypatch.chdir(tmp_path)  # where nothing has run
    text = page("planning")
    (command,) = re.findall(r"^llm2clip (plan .*)$", text, re.MULTILINE)
    (shown,) = re.findall(r"```\n(plan of .*?)```", text, re.DOTALL)
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(shown)


@pytest.mark.parametrize(
    ("preset", "said"),
    [
        ("cc3m", "for `cc3m` tune_llm (.*) h and embed_captions (.*) h,"),
        ("full", r"for `full`\n(.*) h and (.*) h\."),
    ],
)
def test_the_hours_at_the_papers_size_are_what_the_command_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str, said: str
) -> None:
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    monkeypatch.chdir(tmp_path)
    (options,) = re.findall(r"`llm2clip plan PRESET ([^`]*)`, which is", page("planning"))
    done = CliRunner().invoke(app, ["plan", preset, *options.split()])
    assert done.exit_code == 0, done.stderr
    hours = [
        re.search(rf"^{stage}\n(?:  .*\n)*?  wall +(\S+) h", done.stdout, re.MULTILINE)
        for stage in ("tune_llm", "embed_captions")
    ]
    assert [tuple(found[1] for found in hours if found)] == re.findall(said, page("planning"))
