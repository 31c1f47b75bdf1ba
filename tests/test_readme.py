"""The README names what is there: every folder in its tree, every make target it uses."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from components.cli import app
from components.settings.params import Params, load_params
from components.settings.recaption import PromptedCaptioner
from tests.project import ROOT, Project

README = (ROOT / "README.md").read_text("utf-8")
TREE = README.split("## The tree")[1]


def test_the_tree_names_every_folder() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [line.split("/") for line in listed.splitlines()]
    folders = {path[0] for path in paths if len(path) > 1 and not path[0].startswith(".")}
    folders |= {path[1] for path in paths if path[0] == "components" and len(path) > 2}
    assert not [folder for folder in folders if not re.search(rf"^ *{folder}/ ", TREE, re.MULTILINE)]


def test_every_make_target_it_uses_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    used = set(
        re.findall(r"\bmake ([a-z0-9-]+)\b", " ".join(re.findall(r"`[^`]*`|^make .*$", README, re.MULTILINE)))
    )
    assert used
    assert used <= targets


def test_its_local_links_exist() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_its_advice_to_add_data_to_dvc_leaves_one_file_for_git(tmp_path: Path) -> None:
    assert "`dvc add inputs/<name>`" in README
    project = Project(tmp_path / "project")
    (project.folder / "inputs" / "mine").mkdir()
    (project.folder / "inputs" / "mine" / "list.csv").write_text("url,caption\n")
    project.run("dvc", "add", "inputs/mine")
    assert project.run("git", "status", "--porcelain", "-uall").stdout == "?? inputs/mine.dvc\n"


def test_its_captioners_are_params(tmp_path: Path) -> None:
    yaml = YAML(typ="safe")
    demo: dict[str, Any] = yaml.load((ROOT / "presets" / "demo.yaml").read_text("utf-8"))
    (example,) = re.findall(r"```yaml\n(base_models:.*?)```", README, re.DOTALL)
    for section, values in yaml.load(example).items():
        demo[section] |= values
    path = tmp_path / "params.yaml"
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(demo, file)
    (captioner,) = load_params(path).recaption.captioners
    assert isinstance(captioner, PromptedCaptioner)
    for kind in captioner.prompts:
        assert f"{captioner.name}_{kind}" in README


def test_its_captioners_name_every_kind() -> None:
    kinds = set(
        re.findall(r'kind: Literal\["(\w+)"\]', (ROOT / "components/settings/recaption.py").read_text())
    )
    table = README.split("## Your own captioners")[1].split("```")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == kinds


def test_its_text_encoders_are_params(smoke: Params) -> None:
    (example,) = re.findall(r"```yaml\n(embed_captions:.*?)```", README, re.DOTALL)
    tree = smoke.model_dump()
    source = {"name": "minilm", "source": {"kind": "folder", "path": "minilm"}}
    tree["base_models"]["text_encoders"] = [source]
    tree["embed_captions"] |= YAML(typ="safe").load(example)["embed_captions"]
    others = Params.model_validate(tree).embed_captions.others
    table = README.split("## Your own text encoders")[1].split("```")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == {one.kind for one in others}


def test_its_plan_is_what_the_command_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    monkeypatch.chdir(tmp_path)  # where nothing has run
    section = README.split("## Before you start")[1]
    (command,) = re.findall(r"^llm2clip (plan .*)$", section, re.MULTILINE)
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, done.stderr
    assert f"```\n{done.stdout}```\n</details>" in section
    assert README.count("\nplan of ") == 1


@pytest.mark.parametrize(
    ("preset", "said"),
    [
        ("cc3m", "for `cc3m` tune_llm (.*) h and embed_captions (.*) h,"),
        ("full", r"for `full`\n(.*) h and (.*) h\."),
    ],
)
def test_its_hours_at_the_papers_size_are_what_the_command_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str, said: str
) -> None:
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    monkeypatch.chdir(tmp_path)
    (options,) = re.findall(r"`llm2clip plan PRESET ([^`]*)`, which is", README)
    done = CliRunner().invoke(app, ["plan", preset, *options.split()])
    assert done.exit_code == 0, done.stderr
    hours = [
        re.search(rf"^{stage}\n(?:  .*\n)*?  wall +(\S+) h", done.stdout, re.MULTILINE)
        for stage in ("tune_llm", "embed_captions")
    ]
    assert [tuple(found[1] for found in hours if found)] == re.findall(said, README)
