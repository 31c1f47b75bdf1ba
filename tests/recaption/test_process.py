"""The stage in a process of its own: killed in the middle, and with a key that must not get out."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr
from ruamel.yaml import YAML

from components.settings.params import Params
from components.storage.atomic import read_json
from components.storage.layout import Layout
from components.storage.manifest import folder_key
from tests.conftest import ROOT
from tests.recaption.chat_server import ChatServer, caption_of, completion, raw, status, well
from tests.recaption.project import (
    COLUMNS,
    SHARDS,
    pairs_of,
    run_with,
    with_captioners,
)
from tests.recaption.prompted import FAR, far


def stage(project: Path, url: str, key: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the stage as `dvc repro` does, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "components", "recaption", *arguments],
        cwd=project, text=True, capture_output=True, check=False,
        env=os.environ | {
            "PYTHONPATH": str(ROOT), "LLM2CLIP_CAPTION_ENDPOINT": url, "LLM2CLIP_CAPTION_ENDPOINT_KEY": key
        },
    )  # fmt: skip


def write_params(smoke: Params, *captioners: dict[str, Any]) -> None:
    tree = with_captioners(smoke, list(captioners)).model_dump()
    with Path("params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(tree, file)


def test_killed_in_the_middle_it_goes_on_to_equal_files(
    smoke: Params, layout: Layout, workspace: Path, server: ChatServer
) -> None:
    write_params(smoke, FAR, COLUMNS)
    (killer,) = (pair.jpeg for pair in pairs_of("00001", SHARDS["00001"])[2:3])

    async def kills(_server: ChatServer, body: dict[str, Any]) -> web.StreamResponse:
        os.kill(int((layout.work("recaption") / "lock").read_text()), signal.SIGKILL)
        return completion(caption_of(body))

    server.behaviours[killer] = [kills, well]
    assert stage(workspace, server.url, "").returncode == -signal.SIGKILL
    assert not layout.artifact("recaption").exists()
    hits = sum(server.hits.values())
    assert stage(workspace, server.url, "").returncode == 0
    assert sum(server.hits.values()) == hits + 2 + 3  # the second shard but for what was finished of it
    resumed = folder_key(layout.artifact("recaption")), read_json(layout.metrics("recaption"))
    run_with(smoke, Layout(workspace / "fresh"), FAR, COLUMNS, environment=far(server))
    assert (folder_key(layout.artifact("recaption")), read_json(layout.metrics("recaption"))) == resumed


@pytest.mark.parametrize(
    ("behaviour", "code"), [(well, 0), (status(401), 2), (status(500), 4), (raw(b"{"), 2)]
)
def test_the_key_is_written_nowhere(
    smoke: Params, layout: Layout, workspace: Path, server: ChatServer, behaviour: Any, code: int
) -> None:
    write_params(smoke, FAR)
    server.usual = behaviour
    key = token_hex()
    done = stage(workspace, server.url, key, "--debug")
    assert done.returncode == code, done.stderr
    assert server.headers[0]["Authorization"] == f"Bearer {key}"
    assert key not in done.stdout + done.stderr
    assert not [path for path in workspace.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]


def test_the_key_is_not_in_what_python_shows(caplog: pytest.LogCaptureFixture) -> None:
    from components.settings.environment import Environment

    key = token_hex()
    logging.getLogger("llm2clip").warning("%r", env := Environment(caption_endpoint_key=SecretStr(key)))
    assert key not in caplog.text + str(env.model_dump()) + env.model_dump_json()
