"""Params as text: the file, every value, and what differs from a revision."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from components.cli.params import show_params
from components.errors import ConfigurationError
from components.settings.params import Params, load_params
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the smoke preset as params.yaml."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "presets" / "smoke.yaml", "params.yaml")
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Start"]):
        git = ["git", "-c", "user.name=user", "-c", "user.email=user@localhost", *arguments]
        subprocess.run(git, check=True)
    return tmp_path


def test_the_file_as_it_is_and_every_value() -> None:
    assert "\n".join(show_params(is_resolved=False, revision=None)) + "\n" == Path("params.yaml").read_text()
    resolved = "\n".join(show_params(is_resolved=True, revision=None))
    tree = YAML(typ="safe").load(resolved)
    assert Params.model_validate(tree) == load_params(Path("params.yaml"))
    assert tree["download"]["fetch"]["max_redirects"] == 5  # the file does not say so


def test_what_differs_from_a_revision_with_defaults() -> None:
    path = Path("params.yaml")
    assert show_params(is_resolved=False, revision="HEAD") == ["no value differs from HEAD"]
    text = path.read_text().replace("seed: 7", "seed: 8")
    path.write_text(text.replace("  data_root: null", "  data_root: null\n  max_urls_per_body: 11"))
    assert show_params(is_resolved=False, revision="HEAD") == [
        "seed: 7 -> 8",
        "download.max_urls_per_body: 10 -> 11",
    ]
    with pytest.raises(
        ConfigurationError, match=r"params.yaml of nowhere not found .*expected a git revision"
    ):
        show_params(is_resolved=False, revision="nowhere")
