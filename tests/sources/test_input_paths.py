"""Paths below inputs that params name: what DVC would not see there is refused, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from components.audit.stage import run as run_audit
from components.base_models.stage import run as run_base_models
from components.download.stage import run as run_download
from components.errors import ConfigurationError
from components.settings.environment import Environment
from components.settings.params import Params
from components.sources.input_paths import (
    InputPath,
    paths_of_audit,
    paths_of_base_models,
    paths_of_download,
    unseen_by_dvc,
)
from tests.sources.reading import texts
from tests.sources.test_annotations import coco, karpathy
from tests.sources.test_sample_files import sidecars
from tests.sources.test_shard_rows import shards

Layout = Callable[[Path, Path], Path]  # of inputs/<name> and a folder elsewhere; returns what changes later


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("first")
    return path


def plain(inputs: Path, _elsewhere: Path) -> Path:
    return put(inputs / "images" / "a" / "1.jpg")


def linked_files(inputs: Path, elsewhere: Path) -> Path:
    put(inputs / "images" / "a" / "2.jpg")
    (inputs / "images" / "a" / "1.jpg").symlink_to(put(elsewhere / "1.jpg"))
    return elsewhere / "1.jpg"


def whole(inputs: Path, elsewhere: Path) -> Path:
    inputs.symlink_to(elsewhere)
    return put(elsewhere / "images" / "1.jpg")


def linked_folder(inputs: Path, elsewhere: Path) -> Path:
    put(inputs / "list.csv")
    (inputs / "images").symlink_to(elsewhere)
    return put(elsewhere / "1.jpg")


def linked_far_below(inputs: Path, elsewhere: Path) -> Path:
    put(inputs / "images" / "a" / "1.jpg")
    (inputs / "images" / "a" / "more").symlink_to(elsewhere)
    return put(elsewhere / "1.jpg")


def linked_through_another(inputs: Path, elsewhere: Path) -> Path:
    inputs.symlink_to(elsewhere / "mine")
    put(elsewhere / "mine" / "list.csv")
    (elsewhere / "mine" / "images").symlink_to(elsewhere / "disk")
    return put(elsewhere / "disk" / "1.jpg")


def project_of_its_own(inputs: Path, _elsewhere: Path) -> Path:
    put(inputs / "images" / ".dvc" / "config").write_text("")
    put(inputs / "list.csv")
    return put(inputs / "images" / "1.jpg")


def link_to_another_folder(inputs: Path, elsewhere: Path) -> Path:
    """The link itself will change: it leads to a folder that is there under its own name as well."""
    put(elsewhere / "1.jpg")
    put(inputs / "v1" / "1.jpg")
    (inputs / "images").symlink_to("v1")
    return inputs / "images"


SEEN = [plain, linked_files, whole]
UNSEEN = [
    linked_folder,
    linked_far_below,
    linked_through_another,
    project_of_its_own,
    link_to_another_folder,
]


def test_what_dvc_does_not_see_is_refused_and_nothing_else(tmp_path: Path) -> None:
    """Every case is a stage of one project; after a run its data changes, and DVC says which are changed."""

    def dvc(*arguments: str) -> str:
        command = [sys.executable, "-m", "dvc", *arguments]
        env = {**os.environ, "DVC_NO_ANALYTICS": "1"}
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env=env, cwd=project
        ).stdout

    project = tmp_path / "project"
    (project / "inputs").mkdir(parents=True)
    changes = {}
    for case in (*SEEN, *UNSEEN):
        changes[case.__name__] = case(project / "inputs" / case.__name__, tmp_path / "disks" / case.__name__)
    stages = {name: {"cmd": "echo done", "deps": [f"inputs/{name}"]} for name in changes}
    (project / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    dvc("init", "--no-scm", "-q")
    dvc("repro", "-q")
    for path in changes.values():
        if path.is_symlink():
            path.unlink()
            path.symlink_to(tmp_path / "disks" / "link_to_another_folder")
        else:
            path.write_text("second, longer")
    seen = set(json.loads(dvc("status", "--json")))
    assert seen == {case.__name__ for case in SEEN}
    images = InputPath(("download", "sources", 0, "images"), "images", is_deep=True)
    refused = {name for name in changes if unseen_by_dvc(project / "inputs" / name, [images])}
    assert refused == changes.keys() - seen


def test_the_message_says_which_link_and_what_to_do(tmp_path: Path) -> None:
    linked_far_below(tmp_path / "mine", tmp_path / "disk")
    (tmp_path / "mine" / "images" / "b").symlink_to(tmp_path / "disk")
    images = InputPath(("download", "sources", 0, "images"), "images", is_deep=True)
    inputs = tmp_path / "mine"
    assert unseen_by_dvc(inputs, [images]) == {
        images.location: f"{inputs}/images/a/more is a link to a folder (and 1 more); DVC skips such "
        "links and would not see that data behind one has changed: expected the folder itself; move it "
        f"there, or make {inputs} the link"
    }
    project_of_its_own(tmp_path / "cloned", tmp_path)
    told = unseen_by_dvc(tmp_path / "cloned", [images])[images.location]
    assert "images is a DVC project of its own, which DVC skips: it would not see" in told
    assert f"remove {tmp_path}/cloned/images/.dvc, or copy the data elsewhere" in told


@pytest.mark.parametrize(
    ("path", "is_deep", "is_refused"),
    [
        ("linked/part-0.parquet", False, True),
        ("linked/*.parquet", False, True),
        ("*/part-*.parquet", False, True),
        ("**/part-*.parquet", False, True),
        ("linked", False, True),
        ("tables", False, False),  # its folder `deeper` is never looked into
        ("tables/deeper/part-0.parquet", False, True),
        ("tables/part-*.parquet", False, False),
        ("tables", True, True),
        ("file.parquet", False, False),
        ("nowhere", True, False),  # whoever reads it says so
        (".", True, True),
    ],
)  # fmt: skip
def test_a_path_is_followed_as_far_as_it_is_read(
    tmp_path: Path, path: str, is_deep: bool, is_refused: bool
) -> None:
    put(tmp_path / "disk" / "part-0.parquet")
    put(tmp_path / "mine" / "tables" / "part-0.parquet")
    for link in ("linked", "tables/deeper"):
        (tmp_path / "mine" / link).symlink_to(tmp_path / "disk")
    (tmp_path / "mine" / "file.parquet").symlink_to(tmp_path / "disk" / "part-0.parquet")
    named = InputPath(("download", "sources", 0, "path"), path, is_deep)
    assert bool(unseen_by_dvc(tmp_path / "mine", [named])) is is_refused


def everything(smoke: Params) -> Params:
    """Return params that name a path wherever one can be named."""
    tree = smoke.model_dump()
    sources = [
        texts("texts.csv", name="told"),
        coco(images="coco", url_field=None),
        coco(name="fetched", path="fetched.json"),
        karpathy(images=None, name="from_inputs"),
        sidecars(path="photos", name="photos"),
        shards(path="shards/*.tar", name="near"),
        shards(path="https://host.example/{0..9}.tar", name="far"),
    ]
    tree["download"]["sources"] += [source.model_dump() for source in sources]
    model = {"kind": "folder", "path": "models/llm"}
    tree["base_models"]["llm"] = model
    tree["base_models"]["clip"]["texts"] = [texts("words.csv").model_dump()]
    tree["base_models"]["text_encoders"] = [{"name": "minilm", "source": {**model, "path": "models/minilm"}}]
    head = {
        "name": "safe",
        "path": "safe.safetensors",
        "keeps": "at_least",
        "limit": 0.0,
        "splits": ["train"],
    }
    tree["audit"]["curation"] = {
        "heads": [head], "similarity": None, "near_images": None,
        "near_captions": {"embeddings": "run/tuned", "column": "alt", "min_cosine": 0.9, "max_rows": 9},
    }  # fmt: skip
    tree["audit"]["reference"] = {"summary": "run/summary.json", "features": ["width"], "max_psi": 0.2}
    return Params.model_validate(tree)


def test_every_param_that_names_a_path_is_known(smoke: Params) -> None:
    params = everything(smoke)
    named = [
        *paths_of_download(params.download),
        *paths_of_base_models(params.base_models),
        *paths_of_audit(params.audit),
    ]
    first = len(smoke.download.sources)
    assert [(".".join(map(str, one.location[1:])), one.path, one.is_deep) for one in named] == [
        (f"sources.{first}.path", "texts.csv", False),
        (f"sources.{first + 1}.path", "captions.json", False),
        (f"sources.{first + 1}.images", "coco", True),
        (f"sources.{first + 2}.path", "fetched.json", False),
        (f"sources.{first + 3}.path", "dataset.json", False),
        (f"sources.{first + 3}.images", ".", True),
        (f"sources.{first + 4}.path", "photos", True),
        (f"sources.{first + 5}.path", "shards/*.tar", False),
        ("llm.path", "models/llm", True),
        ("clip.texts.0.path", "words.csv", False),
        ("text_encoders.0.source.path", "models/minilm", True),
        ("curation.heads.0.path", "safe.safetensors", False),
        ("curation.near_captions.embeddings", "run/tuned", True),
        ("reference.summary", "run/summary.json", False),
    ]


@pytest.mark.parametrize(
    ("stage", "param", "link"),
    [
        (run_download, r"download\.sources\.2\.path", "photos"),
        (run_base_models, r"base_models\.llm\.path", "models"),
        (run_audit, r"audit\.reference\.summary", "run"),
    ],
)
def test_a_stage_refuses_what_dvc_does_not_see(
    workspace: Path,
    smoke: Params,
    env: Environment,
    stage: Callable[[Params, Environment], None],
    param: str,
    link: str,
) -> None:
    disk = put(workspace / "disk" / "1.jpg").parent
    Path("inputs/demo", link).symlink_to(disk)
    tree = everything(smoke).model_dump()
    tree["download"]["sources"] = [
        one for one in tree["download"]["sources"] if one["name"] in ("scenes", "scene_texts", "photos")
    ]
    params = Params.model_validate(tree)
    with pytest.raises(ConfigurationError, match=rf"{param}: inputs/demo/{link} is a link to a folder"):
        stage(params, env)
