"""The release: complete, equal in every run, stopped by its gates, and loadable as its card says."""

from __future__ import annotations

import re
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from components.errors import ConfigurationError, DataError, GateError
from components.ml.adapter import load_adapter
from components.ml.release import ClipRelease, LlmRelease, load_release
from components.ml.text.encoder import encode, load_text_encoder
from components.ml.vision.pixels import decode_images
from components.ml.vision.towers import encode_images, load_vision_encoder
from components.register.stage import run
from components.settings.environment import Environment
from components.settings.params import Params
from components.settings.register import Gate
from components.storage.atomic import read_json
from components.storage.layout import Layout
from components.storage.manifest import read_manifest
from components.storage.shards import read_shard
from tests.clip_project import COUNTS
from tests.register.conftest import DIM, TEXTS, with_register

METRIC = "arms.llm2clip.retrieval.dense.text_to_image.recall_at_1.value"


def jpegs(layout: Layout) -> list[bytes]:
    return [pair.jpeg for pair in read_shard(layout.artifact("download") / "shards" / "00000.tar")]


def test_release_gives_the_vectors_that_were_trained(
    smoke: Params, env: Environment, trained: Layout
) -> None:
    run(smoke, env)
    release = load_release(trained.artifact("register"))
    assert isinstance(release, LlmRelease)

    tuned = trained.artifact("tune_llm")
    llm = load_text_encoder(tuned / "llm", **read_json(tuned / "encoding.json"))
    cached = torch.cat([encode(llm, [text], 1024) for text in TEXTS]).half()  # as embed_captions stores them
    arm = trained.artifact("train_clip") / "llm2clip"
    texts = release.embed_texts(TEXTS)
    torch.testing.assert_close(texts, load_adapter(arm / "text_adapter")(cached), atol=1e-3, rtol=0)

    files = jpegs(trained)
    images = release.embed_images([Image.open(BytesIO(file)) for file in files])
    encoder: Any = load_vision_encoder(arm / "vision_encoder")
    with torch.inference_mode():
        expected = encode_images(encoder, decode_images(files, encoder.config.image_size))
    torch.testing.assert_close(images, expected)
    for rows, count in ((texts, len(TEXTS)), (images, len(files))):
        assert rows.shape == (count, DIM)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(count))
    assert release.logit_scale == pytest.approx(14.0)
    for embed in (release.embed_images, release.embed_texts):
        assert embed([]).shape == (0, DIM)


def test_a_release_can_hold_its_llm_in_bf16(smoke: Params, env: Environment, trained: Layout) -> None:
    run(smoke, env)
    folder = trained.artifact("register")
    whole, half = load_release(folder), load_release(folder, llm_precision="bf16")
    assert isinstance(half, LlmRelease)
    assert half.llm.precision == "bf16"
    assert {weight.dtype for weight in half.text_adapter.parameters()} == {torch.float32}
    rows = half.embed_texts(TEXTS)
    assert rows.dtype == torch.float32
    assert float((rows * whole.embed_texts(TEXTS)).sum(1).min()) > 0.999
    with pytest.raises(ValueError, match="llm_precision is 'int8'; expected fp32 or bf16"):
        load_release(folder, llm_precision="int8")


@pytest.mark.parametrize(("arm", "kind"), [("llm2clip_untuned", LlmRelease), ("clip", ClipRelease)])
def test_controls_register_too(
    smoke: Params, env: Environment, trained: Layout, arm: str, kind: type[object]
) -> None:
    run(with_register(smoke, arm=arm), env)
    release = load_release(trained.artifact("register"))
    assert isinstance(release, kind)
    rows = release.embed_texts(TEXTS)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(TEXTS)))
    if arm == "llm2clip_untuned":
        base = trained.artifact("base_models") / "llm" / "model.safetensors"
        copied = trained.artifact("register") / "llm" / "model.safetensors"
        assert copied.read_bytes() == base.read_bytes()


def test_equal_inputs_make_an_equal_release_and_a_changed_weight_another_version(
    smoke: Params, env: Environment, trained: Layout
) -> None:
    run(smoke, env)
    folder = trained.artifact("register")
    first, about = read_manifest(folder), read_json(folder / "release.json")
    run(smoke, env)
    assert read_manifest(folder) == first
    assert about["metrics"] == read_json(trained.metrics("evaluate"))["arms"]["llm2clip"]
    assert about["data"]["images"] == sum(COUNTS.values())
    assert set(about["manifests_sha256"]) >= {"download", "base_models", "tune_llm", "train_clip"}

    run(with_register(smoke, licence="another"), env)
    assert read_json(folder / "release.json")["version"] != about["version"]
    versions = {path.name for path in Path("registry/models/llm2clip_smoke").iterdir()} - {"aliases"}
    assert len(versions) == 2


def test_the_card_says_what_works(
    smoke: Params, env: Environment, trained: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(smoke, env)
    registered = next(Path("registry/models/llm2clip_smoke").glob("*/README.md")).parent
    shutil.copytree(registered, tmp_path / "release")
    card = (tmp_path / "release" / "README.md").read_text("utf-8")
    assert "| dense | text to image | **llm2clip** | 50.0 [25.0, 100.0] |" in card
    assert "| dense | text to image | base_clip | 20.0 [10.0, 100.0] |" in card
    assert smoke.register.licence in card
    assert "which plain transformers refuses to load" in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    (tmp_path / "release" / "picture.jpg").write_bytes(jpegs(trained)[0])
    monkeypatch.chdir(tmp_path / "release")
    names: dict[str, Any] = {}
    exec(code[1], names)  # noqa: S102 - the code that the card tells people to run
    assert names["probabilities"].sum() == pytest.approx(1.0)


def test_a_figure_below_its_gate_stops_and_leaves_the_last_release(
    smoke: Params, env: Environment, trained: Layout
) -> None:
    run(smoke, env)
    good = read_manifest(trained.artifact("register"))
    with pytest.raises(GateError, match=rf"{METRIC} is 0\.5, register\.gates asks for at least 0\.6"):
        run(with_register(smoke, gates=[Gate(metric=METRIC, minimum=0.6)]), env)
    both = rf"{METRIC} is 0\.5, .* least 0\.6, {METRIC} is 0\.5, .* least 0\.7; nothing was registered"
    with pytest.raises(GateError, match=both):
        run(with_register(smoke, gates=[Gate(metric=METRIC, minimum=one) for one in (0.6, 0.7, 0.5)]), env)
    assert read_manifest(trained.artifact("register")) == good
    assert len(list(Path("registry/models/llm2clip_smoke").iterdir())) == 2  # one version, the aliases


@pytest.mark.parametrize("metric", [METRIC.replace("dense", "dense_"), "arms.llm2clip", METRIC[:-6]])
def test_a_gate_without_a_figure_names_near_ones(
    smoke: Params, env: Environment, trained: Layout, metric: str
) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"no figure {metric}; the nearest are .*{re.escape('arms.llm2clip')}"
    ):
        run(with_register(smoke, gates=[Gate(metric=metric, minimum=0.0)]), env)


def test_an_arm_that_was_not_trained_is_named(smoke: Params, env: Environment, trained: Layout) -> None:
    with pytest.raises(ConfigurationError, match="expected an arm of train_clip: llm2clip, "):
        run(with_register(smoke, arm="other"), env)


def test_a_damaged_arm_is_not_registered(smoke: Params, env: Environment, trained: Layout) -> None:
    path = trained.artifact("train_clip") / "llm2clip" / "text_adapter" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"model\.safetensors is damaged"):
        run(smoke, env)
    assert not trained.artifact("register").exists()


def test_parts_that_do_not_fit_are_refused(smoke: Params, env: Environment, trained: Layout) -> None:
    run(smoke, env)
    folder = trained.artifact("register")
    with pytest.raises(ValueError, match="expected a release of this pipeline"):
        load_release(folder / "llm")
    config = folder / "text_adapter" / "config.json"
    config.unlink()
    with pytest.raises(ValueError, match="holds no text adapter"):
        load_release(folder)
