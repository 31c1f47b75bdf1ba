"""The README names what is there: every folder in its tree, every make target it uses; and it is short."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

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


def test_it_reads_in_minutes() -> None:
    assert len(README.splitlines()) <= 150
    assert not [line for line in README.splitlines() if len(line) > 120 and not line.startswith("|")]


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
