"""The environment says where work happens and cannot change a result."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.errors import ConfigurationError
from components.settings.environment import load_environment


def test_unknown_name_is_refused_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM2CLIP_REGISTRI", "x")
    with pytest.raises(ConfigurationError, match="LLM2CLIP_REGISTRI; did you mean LLM2CLIP_REGISTRY"):
        load_environment()


def test_params_cannot_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM2CLIP_TRAIN_CLIP__STEPS", "5")
    with pytest.raises(ConfigurationError, match="training values live in params.yaml"):
        load_environment()


@pytest.mark.parametrize("value", ["-1", "many"])
def test_bad_value_names_the_variable(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LLM2CLIP_THREADS", value)
    with pytest.raises(ConfigurationError, match="LLM2CLIP_THREADS"):
        load_environment()


def test_a_bad_secret_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM2CLIP_CAPTION_ENDPOINT_KEI", "hunter2")
    with pytest.raises(ConfigurationError, match="did you mean LLM2CLIP_CAPTION_ENDPOINT_KEY") as fault:
        load_environment()
    assert "hunter2" not in str(fault.value)
    monkeypatch.delenv("LLM2CLIP_CAPTION_ENDPOINT_KEI")
    monkeypatch.setenv("LLM2CLIP_CAPTION_ENDPOINT_KEY", "hunter2")
    assert "hunter2" not in repr(load_environment())


@pytest.mark.parametrize("variable", ["LLM2CLIP_CAPTION_ENDPOINT", "LLM2CLIP_EMBEDDING_ENDPOINT"])
@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("http://captions.example/v1", "captions.example"),
        ("HTTP://captions.example:8000/v1?key=hunter2", "captions.example"),
        (" http://user:hunter2@10.0.0.7/v1", "10.0.0.7"),
        ("http://[2606:4700::1]/v1", "2606:4700::1"),
        ("http://0.0.0.0/v1", "0.0.0.0"),  # noqa: S104
        ("http://localhost.example/v1", "localhost.example"),
        ("http://127.0.0.1.example/v1", "127.0.0.1.example"),
    ],
)
def test_nothing_goes_over_plain_http_to_a_host_that_is_not_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, endpoint: str, host: str
) -> None:
    monkeypatch.setenv("LLM2CLIP_PLAIN_HTTP_HOSTS", "other.example")
    monkeypatch.setenv(variable, endpoint)
    with pytest.raises(ConfigurationError) as fault:
        load_environment()
    assert str(fault.value) == (
        f"environment variable {variable}: a key, pictures and texts would go to {host} over "
        "plain http; expected https: change the address, or, where nobody else can listen, name the host in "
        "LLM2CLIP_PLAIN_HTTP_HOSTS"
    )
    monkeypatch.setenv("LLM2CLIP_PLAIN_HTTP_HOSTS", f"other.example, {host.upper()}")
    load_environment()


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "https://captions.example/v1",
        "http://localhost:8000/v1",
        "http://127.9.0.1/v1",
        "http://[::1]:8000/v1",
    ],
)
def test_https_and_this_machine_need_not_be_named(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("LLM2CLIP_CAPTION_ENDPOINT", endpoint)
    assert load_environment().caption_endpoint == endpoint


def test_values_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM2CLIP_REGISTRY", "s3://bucket/prefix")
    assert load_environment().registry == "s3://bucket/prefix"


def test_home_and_variables_in_paths_are_expanded_as_a_shell_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.setenv("LLM2CLIP_WORK_STORE", "~/work")
    monkeypatch.setenv("LLM2CLIP_REGISTRY", "$HOME/models")
    env = load_environment()
    assert (env.work_store, env.registry) == (tmp_path / "work", f"{tmp_path}/models")
    monkeypatch.setenv("LLM2CLIP_WORK_STORE", "${SCRATCH}/a~b")  # only a leading ~ is a home
    monkeypatch.setenv("LLM2CLIP_REGISTRY", "s3://bucket/~user/$year")  # an address stays as it is
    env = load_environment()
    assert (env.work_store, env.registry) == (Path("/scratch/me/a~b"), "s3://bucket/~user/$year")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("$SCRATHC/work", "names the variable \\$SCRATHC, which is not set; set it or write the path out"),
        ("${SCRATHC}/work", "names the variable \\${SCRATHC}, which is not set"),
        ("~nosuchuser/work", "names a user without a home folder"),
    ],
)
@pytest.mark.parametrize("name", ["LLM2CLIP_WORK_STORE", "LLM2CLIP_REGISTRY"])
def test_a_path_that_cannot_be_expanded_makes_no_folder(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"environment variable {name}: .*{message}"):
        load_environment()


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM2CLIP_WORK_STORE", "")
    monkeypatch.setenv("LLM2CLIP_THREADS", "")
    assert (load_environment().work_store, load_environment().threads) == (Path(".work"), 0)
