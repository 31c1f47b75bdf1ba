"""Publishing: visible at once or not at all, once, by one winner, and without a secret."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from components.errors import DataError, InfrastructureError
from components.ml.release import load_release
from components.register.publish import move_alias, publish
from components.register.stage import run
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import read_json, sha256_of
from components.storage.buckets.bucket import Bucket, FolderBucket, open_bucket
from components.storage.layout import MANIFEST, Layout
from components.storage.manifest import read_manifest
from tests.register.conftest import with_register

RACERS = 6


@pytest.fixture
def released(smoke: Params, trained: Layout) -> Layout:
    """A release, not yet in any registry."""
    run(smoke, Environment(registry="elsewhere"))
    shutil.rmtree("elsewhere")
    return trained


def contents(bucket: Bucket) -> dict[str, tuple[bytes, str] | None]:
    return {name: bucket.read(name) for name in bucket.names()}


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_publishing_again_changes_nothing_and_says_so(
    released: Layout, kind: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    uri = "registry" if kind == "folder" else f"s3://{request.getfixturevalue('s3')}/models of ours"
    env = Environment(registry=uri)
    with caplog.at_level("INFO"):
        place = publish(released, env)
    about = read_json(released.artifact("register") / "release.json")
    folder = f"models/{about['name']}/{about['version']}"
    assert place == f"{uri}/{folder}"
    assert f"{about['version']} is published" in caplog.text

    before = contents(open_bucket(uri))
    files = {entry.uri for entry in read_manifest(released.artifact("register"))}
    named = {f"{folder}/{name}" for name in (*files, MANIFEST, "published.json")}
    assert set(before) == {*named, f"models/{about['name']}/aliases/latest.json"}
    caplog.clear()
    with caplog.at_level("INFO"):
        assert publish(released, env) == place
    assert "is in the registry already; nothing was copied" in caplog.text
    assert contents(open_bucket(uri)) == before


def test_a_published_release_is_whole_and_loads(released: Layout, env: Environment) -> None:
    place = Path(publish(released, env))
    published = read_json(place / "published.json")
    assert set(published) == {
        "code_sha256",
        "git_commit",
        "git_changed_files",
        "published_at",
        "trained_with",
    }
    (place / "published.json").unlink()
    assert read_manifest(place) == read_manifest(released.artifact("register"))
    assert load_release(place).embed_texts(["a circle"]).shape[0] == 1


GIT = """#!/bin/sh
case "$*" in
  *rev-parse*) echo 1234abcd ;;
  *) exec sleep 60 ;;
esac
"""


def git_on_path(script: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin" if script else str(folder))
    if script:
        (folder / "git").write_text(script)
        (folder / "git").chmod(0o755)


@pytest.mark.parametrize(
    ("script", "commit"),
    [(GIT, "1234abcd"), ("#!/bin/sh\nexit 128\n", None), ("not a program", None), (None, None)],
    ids=["slow", "refuses", "broken", "missing"],
)
def test_a_release_is_published_whatever_git_does(
    released: Layout,
    env: Environment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    script: str | None,
    commit: str | None,
) -> None:
    git_on_path(script, tmp_path / "git", monkeypatch)
    monkeypatch.setattr("components.register.publish.GIT_SECONDS", 1)
    place = Path(publish(released, env))
    published = read_json(place / "published.json")
    assert (published["git_commit"], published["git_changed_files"]) == (commit, None)
    assert (place / MANIFEST).is_file()
    said = "git status took over 1 s; the release is published without it" in caplog.text
    assert said == (script == GIT)


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_racing_publishers_have_one_winner(
    released: Layout, kind: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    uri = "registry" if kind == "folder" else f"s3://{request.getfixturevalue('s3')}"
    env = Environment(registry=uri)
    with caplog.at_level("INFO", logger="llm2clip"), ThreadPoolExecutor(RACERS) as pool:
        places = set(pool.map(lambda _: publish(released, env), range(RACERS)))
    assert len(places) == 1
    assert caplog.text.count("is published") == 1
    bucket = open_bucket(uri)
    about = read_json(released.artifact("register") / "release.json")
    folder = f"models/{about['name']}/{about['version']}"
    for entry in read_manifest(released.artifact("register")):
        found = bucket.read(f"{folder}/{entry.uri}")
        assert found is not None
        assert len(found[0]) == entry.bytes
    assert not bucket.names("probes/")


def test_nothing_is_visible_before_the_last_file_is_there(released: Layout, env: Environment) -> None:
    entries = read_manifest(released.artifact("register"))
    bucket = FolderBucket(Path(env.registry))
    about = read_json(released.artifact("register") / "release.json")
    folder = f"models/{about['name']}/{about['version']}"
    blocker = bucket.folder / folder / entries[-1].uri / "in the way"
    blocker.parent.mkdir(parents=True)
    blocker.touch()
    with pytest.raises(InfrastructureError, match="cannot be written to"):
        publish(released, env)
    assert bucket.exists(f"{folder}/{entries[0].uri}")
    assert not bucket.exists(f"{folder}/{MANIFEST}")
    assert not bucket.exists(f"models/{about['name']}/aliases/latest.json")
    shutil.rmtree(blocker.parent)
    place = Path(publish(released, env))
    assert all(sha256_of(place / entry.uri) == entry.sha256 for entry in entries)


def test_another_release_under_this_version_is_never_overwritten(released: Layout, env: Environment) -> None:
    place = Path(publish(released, env))
    (place / MANIFEST).write_text("{}")
    with pytest.raises(DataError, match="holds another release under this version"):
        publish(released, env)
    assert (place / MANIFEST).read_text() == "{}"


def test_a_damaged_or_missing_release_is_not_published(released: Layout, env: Environment) -> None:
    card = released.artifact("register") / "README.md"
    card.write_text("edited by hand")
    with pytest.raises(DataError, match=r"README\.md is damaged"):
        publish(released, env)
    shutil.rmtree(released.artifact("register"))
    with pytest.raises(DataError, match="not found"):
        publish(released, env)
    assert not Path(env.registry).exists()


def test_latest_follows_what_was_published_last(smoke: Params, env: Environment, released: Layout) -> None:
    first = publish(released, env)
    run(with_register(smoke, licence="another"), env)
    latest = read_json(Path("registry/models/llm2clip_smoke/aliases/latest.json"))
    assert latest["previous"] == Path(first).name
    assert latest["version"] == read_json(released.artifact("register") / "release.json")["version"]


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_racing_alias_moves_form_one_chain(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    uri = str(tmp_path / "registry") if kind == "folder" else f"s3://{request.getfixturevalue('s3')}"
    bucket = open_bucket(uri)
    seen: list[str | None] = []

    class Watched:
        """The bucket, which notes the `previous` of each swap that was made."""

        def read(self, name: str) -> tuple[bytes, str] | None:
            return bucket.read(name)

        def write(self, name: str, data: bytes, **conditions: Any) -> bool:
            won = bucket.write(name, data, **conditions)
            if won:
                seen.append(json.loads(data)["previous"])
            return won

    watched: Any = Watched()
    with ThreadPoolExecutor(RACERS) as pool:
        moved = list(
            pool.map(lambda number: move_alias(watched, "model", "latest", f"v{number}"), range(RACERS))
        )
    assert all(moved)
    assert len(seen) == len(set(seen)) == RACERS  # no version was replaced twice: no swap was lost
    found = bucket.read("models/model/aliases/latest.json")
    assert found is not None
    assert not move_alias(bucket, "model", "latest", json.loads(found[0])["version"])
