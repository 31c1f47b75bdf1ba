"""Bases of other families in train_clip and evaluate: SigLIP, EVA-CLIP, and EVA02's vision tower alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from components.errors import ConfigurationError
from components.evaluate import stage as evaluate
from components.ml.release import load_release
from components.ml.vision.towers import load_vision_encoder
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import read_json
from components.storage.layout import Layout
from components.train_clip import stage as train_clip
from tests.clip_project import COUNTS, make_artifacts, put_base, small

OUT = Path("artifacts/train_clip")
REPORT = Path("artifacts/evaluate/report.html")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other_bases")
    make_artifacts(Layout(Path(".work"), folder))
    return folder


@pytest.fixture
def project(workspace: Path, made: Path) -> Layout:
    shutil.copytree(made / "artifacts", workspace / "artifacts")
    return Layout(Path(".work"))


def short_run(smoke: Params, *names: str, scale: float | None = None, **values: object) -> Params:
    params = small(smoke)
    arms = [
        arm.model_copy(
            update={"steps": 2, "logit_scale": arm.logit_scale.model_copy(update={"initial": scale})}
        )
        for arm in params.train_clip.arms
        if arm.name in names
    ]
    train = params.train_clip.model_copy(update={"arms": arms, **values})
    return params.model_copy(update={"train_clip": train})


@pytest.mark.parametrize(
    ("family", "own_width", "kind"),
    [
        ("siglip", 16, "siglip_vision_model"),
        ("eva02_b16", 8, "eva02_clip_vision_model"),
        ("clip_b16", 8, "clip_vision_model"),
    ],
)
@pytest.mark.parametrize("is_new", [False, True])
def test_every_arm_trains_and_is_measured(
    project: Layout, smoke: Params, env: Environment, family: str, own_width: int, kind: str, is_new: bool
) -> None:
    put_base(project, family)
    width = 12 if is_new else own_width
    scale = 20.0 if is_new else None
    params = short_run(
        smoke,
        "llm2clip",
        "clip",
        "clip_long",
        new_projection=is_new,
        projection_dim=width,
        scale=scale,
    )
    train_clip.run(params, env)
    evaluate.run(params, env)
    tower = OUT / "llm2clip" / "vision_encoder"
    prefix = "projected_" if is_new and family == "siglip" else ""
    assert read_json(tower / "config.json")["model_type"] == f"{prefix}{kind}"
    arms = read_json(project.metrics("evaluate"))["arms"]
    assert set(arms) == {"llm2clip", "clip", "clip_long", "base_clip"}
    assert "left out" not in REPORT.read_text("utf-8")
    release = load_release(OUT / "clip")
    picture = Image.new("RGB", (50, 40), "red")
    assert release.embed_images([picture]).shape == (1, own_width)
    assert release.embed_texts(["a red circle"]).shape == (1, own_width)
    about = {name: read_json(OUT / name / "model.json") for name in ("llm2clip", "clip")}
    if is_new:
        assert about["clip"]["logit_scale"] == pytest.approx(20, rel=0.1)
        assert about["llm2clip"]["logit_scale"] == pytest.approx(20, rel=0.1)


def test_a_step_moves_every_part_of_a_siglip_but_its_bias(
    project: Layout, smoke: Params, env: Environment
) -> None:
    put_base(project, "siglip")
    params = short_run(smoke, "clip", projection_dim=16, warmup_steps=0)
    before = load_weights(project.artifact("base_models") / "clip")
    train_clip.run(params, env)
    after = load_weights(OUT / "clip" / "clip")
    unmoved = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    without_gradient = {name for name in before if name.endswith("k_proj.bias")}  # a softmax does not see it
    assert unmoved - without_gradient == {"logit_bias"}


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_tower_alone_trains_against_an_llm_and_leaves_the_base_out(
    project: Layout, smoke: Params, env: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    put_base(project, "eva02_b16", with_text=False)
    params = short_run(smoke, "llm2clip", scale=14.0)
    train_clip.run(params, env)
    evaluate.run(params, env)
    assert load_vision_encoder(OUT / "llm2clip" / "vision_encoder").config.projection_dim == 16  # type: ignore[union-attr]
    metrics = read_json(project.metrics("evaluate"))
    assert list(metrics["arms"]) == ["llm2clip"]
    assert metrics["rows_out"] == COUNTS["test"]
    page = REPORT.read_text("utf-8")
    assert "base_clip is left out: base_models.clip is a vision tower without a text tower" in page
    assert "against 0 controls" in page
    assert "base_clip is left out" in caplog.text


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("clip", r"arm clip: .* is of type eva02_clip_vision_model, without a text tower"),
        ("llm2clip", "arm llm2clip: .*set logit_scale.initial of the arm"),
    ],
)
def test_what_a_tower_alone_cannot_do_is_said(
    project: Layout, smoke: Params, env: Environment, arm: str, message: str
) -> None:
    put_base(project, "eva02_b16", with_text=False)
    with pytest.raises(ConfigurationError, match=message):
        train_clip.run(short_run(smoke, arm), env)
