"""A damaged cache is never used: every kind of file of the artifact, cut and with bits turned (P4)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from components.embed_captions.stage import run
from components.errors import DataError
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.embeddings import read_embeddings, read_prompts
from components.storage.layout import Layout
from tests.embed_captions.test_stage import changed, tuned  # noqa: F401 - a fixture

TRIES = 40  # of each file
COLUMN = "dense"


def read(folder: Path) -> None:
    read_embeddings(folder, [COLUMN], Path(".work"))
    read_prompts(folder, Path(".work"))


def damaged(data: bytes, draw: random.Random) -> bytes:
    if draw.random() < 0.5:
        return data[: draw.randrange(len(data))]
    found = bytearray(data)
    found[draw.randrange(len(found))] ^= 1 << draw.randrange(8)
    return bytes(found)


def test_none_is_read(
    tuned: Layout,  # noqa: F811
    smoke: Params,
    env: Environment,
) -> None:
    run(changed(smoke, llms=["tuned"]), env)
    folder = tuned.artifact("embed_captions") / "tuned"
    read(folder)
    paths = [*sorted((folder / COLUMN).iterdir()), *sorted(folder.glob("prompts.*"))]
    assert {path.suffix for path in paths} == {".safetensors", ".parquet", ".json"}
    draw = random.Random(7)  # noqa: S311 - where to damage
    accepted = []
    for path in paths:
        good = path.read_bytes()
        path.unlink()  # linked to the piece
        for _ in range(TRIES):
            path.write_bytes(damaged(good, draw))
            try:
                read(folder)
            except DataError:
                continue
            accepted.append(path)
        path.write_bytes(good)
    assert not accepted
    read(folder)


@pytest.mark.parametrize("size", [0.0, 0.3, 0.9])
def test_nor_one_with_a_cut_manifest(
    tuned: Layout,  # noqa: F811
    smoke: Params,
    env: Environment,
    size: float,
) -> None:
    run(changed(smoke, llms=["tuned"]), env)
    manifest = tuned.artifact("embed_captions") / "manifest.json"
    data = manifest.read_bytes()
    manifest.write_bytes(data[: int(len(data) * size)])
    with pytest.raises(DataError):
        read(tuned.artifact("embed_captions") / "tuned")
