"""Embeddings that params and models of now would not have made are refused, by name of what differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.errors import DataError
from components.running.embedding_headers import check_header, llm_header, other_header
from components.running.held_out import HeldOutVectors
from components.settings.embed_captions import EmbedCaptions, EndpointEncoder, SentenceTransformersModel
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import write_json
from components.storage.embeddings import Embeddings, read_embeddings
from components.storage.layout import Layout
from components.storage.manifest import write_manifest
from components.storage.mapped_rows import MappedRows
from components.train_clip import stage
from tests.clip_project import make_artifacts, small


@pytest.fixture
def layout(workspace: Path) -> Layout:
    layout = Layout(Path(".work"))
    make_artifacts(layout)
    return layout


def changed(params: EmbedCaptions, **values: Any) -> EmbedCaptions:
    return params.model_copy(update=values)


def test_what_was_made_by_these_params_is_taken(layout: Layout, smoke: Params) -> None:
    for name in ("base", "tuned"):
        found = read_embeddings(layout.artifact("embed_captions") / name, ["dense"], Path(".work"))
        check_header(layout, name, smoke.embed_captions, found)
        assert found.about == llm_header(layout, name, smoke.embed_captions, verify=True)


def test_every_key_that_differs_is_named(layout: Layout, smoke: Params) -> None:
    found = read_embeddings(layout.artifact("embed_captions") / "tuned", ["dense"], Path(".work"))
    write_json(layout.artifact("tune_llm") / "encoding.json", {"pooling": "last"})
    params = changed(smoke.embed_captions, precision="bf16")
    with pytest.raises(
        DataError, match="pooling 'mean', expected 'last'; precision 'fp32', expected 'bf16': run `dvc repro"
    ):
        check_header(layout, "tuned", params, found)


def test_another_model_is_named(layout: Layout, smoke: Params) -> None:
    found = read_embeddings(layout.artifact("embed_captions") / "base", ["dense"], Path(".work"))
    write_json(layout.artifact("base_models") / "llm" / "config.json", {"of": "another"})
    write_manifest(layout.artifact("base_models"))
    with pytest.raises(DataError, match="llm_key '[0-9a-f]{64}', expected '[0-9a-f]{64}'"):
        check_header(layout, "base", smoke.embed_captions, found)


def test_train_clip_and_evaluate_refuse_it(layout: Layout, smoke: Params, env: Environment) -> None:
    params = small(smoke)
    others = params.model_copy(update={"embed_captions": changed(params.embed_captions, precision="bf16")})
    with pytest.raises(DataError, match="precision 'fp32', expected 'bf16'"):
        stage.run(others, env)
    with pytest.raises(DataError, match="precision 'fp32', expected 'bf16'"):
        HeldOutVectors(
            layout,
            "tuned",
            others.embed_captions,
            {"dense"},
            layout.work("evaluate"),
            "test",
            with_prompts=False,
        )


def test_a_server_is_known_by_model_and_revision_and_another_encoder_by_its_files(
    layout: Layout, smoke: Params
) -> None:
    requests = {
        "deadline_seconds": 1.0,
        "retries": 0,
        "backoff_seconds": 1.0,
        "max_retry_after_seconds": 1.0,
        "connections": 1,
    }
    far = EndpointEncoder.model_validate(
        {"kind": "endpoint", "name": "far", "model": "m", "revision": "1", "dimensions": 4,
         "asks_dimensions": True, "batch_size": 2, "max_characters": 9, "requests": requests}
    )  # fmt: skip
    mine = SentenceTransformersModel.model_validate(
        {"kind": "sentence_transformers", "name": "mine", "model": "m", "batch_tokens": 1,
         "precision": "fp32"}
    )  # fmt: skip
    params = changed(smoke.embed_captions, others=[far, mine])
    empty = MappedRows([np.empty((0, 4), np.float16)])
    for one in (far, mine):
        found = Embeddings(other_header(layout, one, verify=True), empty, None)
        check_header(layout, one.name, params, found)
    other = changed(params, others=[far.model_copy(update={"revision": "2", "batch_size": 9}), mine])
    made_by_far = Embeddings(other_header(layout, far, verify=True), empty, None)
    with pytest.raises(
        DataError, match="not made by the current params .*: revision '1', expected '2': run `dvc"
    ):
        check_header(layout, "far", other, made_by_far)
    write_json(layout.artifact("base_models") / "text_encoders" / "m" / "config.json", {})
    write_manifest(layout.artifact("base_models"))
    made_by_mine = Embeddings({**other_header(layout, mine, verify=True), "model_key": "x"}, empty, None)
    with pytest.raises(DataError, match="model_key 'x', expected"):
        check_header(layout, "mine", params, made_by_mine)
