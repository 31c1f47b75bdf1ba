"""An arm whose texts another encoder embedded is trained and measured like any, and the report names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.evaluate import stage
from components.running.embedding_headers import other_header
from components.settings.embed_captions import EndpointEncoder
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import read_json
from components.storage.embeddings import (
    EMBEDDED_CAPTIONS,
    EMBEDDED_PROMPTS,
    PROMPTS,
    read_vectors,
    write_embeddings,
)
from components.storage.layout import Layout
from components.storage.manifest import write_manifest
from components.train_clip import stage as train_clip
from tests.clip_project import make_artifacts
from tests.embed_captions.test_server_encoder import FAR
from tests.evaluate.test_stage import OUT, _params

SECTION = EndpointEncoder.model_validate(FAR)


@pytest.fixture
def layout(workspace: Path) -> Layout:
    """The artifacts, and a server's cache: the vectors of the tuned LLM under a header of its own."""
    layout = Layout(Path(".work"))
    make_artifacts(layout)
    artifact = layout.artifact("embed_captions")
    about = other_header(layout, SECTION, verify=True)
    for path in sorted((artifact / "tuned").rglob("*.safetensors")):
        schema = EMBEDDED_PROMPTS if path.stem == PROMPTS else EMBEDDED_CAPTIONS
        _, vectors, table = read_vectors(path, schema, "")
        folder = artifact / "far" / path.parent.relative_to(artifact / "tuned")
        write_embeddings(folder, path.stem, about, table, vectors)
    write_manifest(artifact)
    return layout


def test_it_is_trained_and_measured_as_any(layout: Layout, smoke: Params, env: Environment) -> None:
    params = _params(smoke)
    of_llm, own = params.train_clip.arms
    arms = [of_llm, own, of_llm.model_copy(update={"name": "of_far", "text": "far"})]
    params = params.model_copy(
        update={
            "embed_captions": params.embed_captions.model_copy(update={"others": [SECTION]}),
            "train_clip": params.train_clip.model_copy(update={"arms": arms}),
        }
    )
    train_clip.run(params, env)
    stage.run(params, env)
    metrics = read_json(layout.metrics("evaluate"))
    assert metrics["arms"]["of_far"] == metrics["arms"][of_llm.name]  # of equal vectors
    assert metrics["caption_retrieval"]["short_to_dense"].keys() >= {"far", "tuned"}
    report = (OUT / "report.html").read_text("utf-8")
    assert "<th>far</th>" in report
    assert "<small>far, cached</small>" in report
