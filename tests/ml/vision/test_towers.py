"""One way for all families of vision towers, saved in Hugging Face layout and loaded again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, SiglipImageProcessor, SiglipModel, SiglipVisionModel

from components.ml.vision.clip import (
    has_text_tower,
    image_embeddings,
    load_base,
    load_clip,
    load_clip_tokenizer,
    save_clip,
    text_embeddings,
    text_tokens,
    with_context,
)
from components.ml.vision.pixels import square_of
from components.ml.vision.towers import (
    embedding_width,
    encode_images,
    image_size_of,
    load_vision_encoder,
    pixels_for,
    save_vision_encoder,
    vision_config_of,
    vision_encoder_of,
)
from components.train_clip.training import layer_of
from tests.ml.towers import CONTEXT, SHAPE, SIZES, TEXTS, pictures, tiny_model, tiny_tokenizer

FAMILIES = list(SIZES)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_embeds_images_and_texts_as_before(tmp_path: Path, tokenizer: Any, family: str) -> None:
    model = tiny_model(family, tokenizer)
    images = pictures(SIZES[family][1])
    save_clip(model, tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_clip(tmp_path)
    assert has_text_tower(tmp_path)
    assert image_size_of(loaded) == SIZES[family][1]
    rows, texts = (
        image_embeddings(loaded, images),
        text_embeddings(loaded, load_clip_tokenizer(tmp_path), TEXTS),
    )
    assert torch.equal(rows, image_embeddings(model, images))
    assert torch.equal(texts, text_embeddings(model, tokenizer, TEXTS))
    assert rows.shape == (5, embedding_width(loaded))
    assert texts.shape == (3, embedding_width(loaded))
    assert torch.allclose(torch.cat([rows, texts]).norm(dim=1), torch.ones(8))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tower_alone_is_the_models(tmp_path: Path, tokenizer: Any, family: str) -> None:
    model = tiny_model(family, tokenizer)
    images = pictures(SIZES[family][1])
    save_vision_encoder(vision_encoder_of(model, None), tmp_path / "alone")
    alone = load_vision_encoder(tmp_path / "alone")
    assert torch.equal(encode_images(alone, images), image_embeddings(model, images))
    again = vision_encoder_of(load_base(tmp_path / "alone"), None)
    assert torch.equal(encode_images(again, images), image_embeddings(model, images))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_projection_has_its_width_and_survives(tmp_path: Path, tokenizer: Any, family: str) -> None:
    model = tiny_model(family, tokenizer)
    images = pictures(SIZES[family][1])
    projected = vision_encoder_of(model, 24)
    assert encode_images(projected, images).shape == (5, 24)
    assert embedding_width(projected) == 24
    tower: Any = projected
    old = model.vision_model.state_dict()
    assert all(torch.equal(value, old[name]) for name, value in tower.vision_model.state_dict().items())
    save_vision_encoder(projected, tmp_path)
    loaded = load_vision_encoder(tmp_path)
    assert torch.equal(encode_images(loaded, images), encode_images(projected, images))
    assert torch.equal(
        encode_images(vision_encoder_of(loaded, None), images), encode_images(projected, images)
    )
    assert encode_images(vision_encoder_of(loaded, 5), images).shape == (5, 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_has_a_depth_of_its_own(tokenizer: Any, family: str) -> None:
    encoder = vision_encoder_of(tiny_model(family, tokenizer), 24)
    layers = int(vision_config_of(encoder).num_hidden_layers)
    depths: dict[int, list[str]] = {}
    for name, _ in encoder.named_parameters():
        depths.setdefault(layer_of(name, layers), []).append(name)
    assert sorted(depths) == [0, 1, 2, 3]
    assert any("patch_embedding" in name for name in depths[0])
    assert any("position_embedding" in name for name in depths[0])
    assert all(f"layers.{depth - 1}." in name for depth in (1, 2) for name in depths[depth])
    assert any("visual_projection" in name for name in depths[3])


@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_are_those_of_the_processor_beside_it(tmp_path: Path, tokenizer: Any, family: str) -> None:
    model = tiny_model(family, tokenizer)
    save_clip(model, tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    picture = Image.effect_mandelbrot((60, 50), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    found = pixels_for(model, square_of(picture, image_size_of(model))[None])
    expected = torch.as_tensor(processor(picture, return_tensors="np")["pixel_values"])
    assert torch.allclose(found, expected, atol=1e-5)
    mean = 0.5 if "siglip" in family else 0.48145466
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["image_mean"][0] == mean


def test_the_normalisation_beside_a_model_goes_with_it(tmp_path: Path, tokenizer: Any) -> None:
    model, images = tiny_model("clip_b16", tokenizer), pictures(32)
    save_clip(model, tmp_path)
    path = tmp_path / "preprocessor_config.json"
    other = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    path.write_text(json.dumps({**json.loads(path.read_text()), **other}))
    loaded = load_clip(tmp_path)
    expected = (images[0, 2, 0, 0] / 255 - 0.6) / 0.3
    assert pixels_for(loaded, images)[0, 2, 0, 0] == pytest.approx(expected)
    save_vision_encoder(vision_encoder_of(loaded, None), tmp_path / "tower")
    tower = load_vision_encoder(tmp_path / "tower")
    assert torch.equal(encode_images(tower, images), image_embeddings(loaded, images))
    assert not torch.allclose(image_embeddings(loaded, images), image_embeddings(model, images), atol=1e-3)
    assert (
        json.loads((tmp_path / "tower" / "preprocessor_config.json").read_text())["image_std"]
        == other["image_std"]
    )
    (tmp_path / "tower" / "preprocessor_config.json").unlink()
    bare = load_vision_encoder(tmp_path / "tower")
    assert torch.equal(encode_images(bare, images), encode_images(tower, images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_mean": [0.5, 0.5]}, r"image_mean \[0.5, 0.5\]; expected one number each"),
        ({"image_mean": [0.5, 0.5, "x"]}, "expected one number each"),
        ({"image_std": [0.5, 0.0, 0.5]}, "expected numbers above 0"),
        ({"rescale_factor": 1.0}, "rescale_factor 1.0; expected 1/255"),
        ({"do_normalize": False}, "do_normalize false"),
    ],
)
def test_pixels_that_are_prepared_in_another_way_are_refused(
    tmp_path: Path, tokenizer: Any, change: dict[str, Any], message: str
) -> None:
    save_clip(tiny_model("clip_b16", tokenizer), tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        load_clip(tmp_path)


def test_siglip_as_it_is_published_loads(tmp_path: Path, tokenizer: Any) -> None:
    model = tiny_model("siglip", tokenizer)
    model.save_pretrained(tmp_path)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    images = pictures(32)
    pixels = (images / 255 - 0.5) / 0.5
    expected = torch.nn.functional.normalize(model.vision_model(pixel_values=pixels).pooler_output, dim=1)
    assert torch.allclose(image_embeddings(load_clip(tmp_path), images), expected, atol=1e-6)


def test_siglips_tower_as_it_is_loads_with_plain_transformers(tmp_path: Path, tokenizer: Any) -> None:
    model = tiny_model("siglip2", tokenizer)
    save_vision_encoder(vision_encoder_of(model, None), tmp_path)
    plain = SiglipVisionModel.from_pretrained(tmp_path)
    images = pictures(28)
    rows = torch.nn.functional.normalize(plain(pixel_values=pixels_for(plain, images)).pooler_output, dim=1)
    assert torch.equal(rows, image_embeddings(model, images))


def test_siglip_reads_the_whole_context_and_pools_at_its_end(tokenizer: Any) -> None:
    model = tiny_model("siglip", tokenizer)
    ids, mask = text_tokens(model, tokenizer, TEXTS)
    assert ids.shape == (3, CONTEXT)
    assert mask.all()
    found = text_embeddings(model, tokenizer, TEXTS)
    tokens = tokenizer(TEXTS, padding="max_length", max_length=CONTEXT, return_tensors="pt")
    output = model.text_model(input_ids=tokens["input_ids"])
    pooled = output.last_hidden_state[:, -1]
    expected = torch.nn.functional.normalize(model.text_model.head(pooled), dim=1)
    assert torch.allclose(found, expected, atol=1e-6)
    alone = torch.cat([text_embeddings(model, tokenizer, [text]) for text in TEXTS])
    assert torch.allclose(found, alone, atol=1e-6)
    longer = with_context(model, 24)
    assert text_tokens(longer, tokenizer, TEXTS)[0].shape == (3, 24)


def test_siglips_bias_is_kept_and_not_trained(tmp_path: Path, tokenizer: Any) -> None:
    model = tiny_model("siglip", tokenizer)
    save_clip(model, tmp_path)
    loaded = load_clip(tmp_path)
    assert isinstance(loaded, SiglipModel)
    assert not loaded.logit_bias.requires_grad
    assert torch.equal(loaded.logit_bias, model.logit_bias)
    assert loaded.logit_scale.requires_grad


def test_siglip_without_its_pooling_head_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    config = vision_config_of(tiny_model("siglip", tokenizer))
    SiglipVisionModel(
        type(config)(**SHAPE, image_size=32, patch_size=16, vision_use_head=False)
    ).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="without its pooling head"):
        load_vision_encoder(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tower_alone_has_no_texts(tmp_path: Path, tokenizer: Any, family: str) -> None:
    save_vision_encoder(vision_encoder_of(tiny_model(family, tokenizer), 24), tmp_path)
    assert not has_text_tower(tmp_path)
    assert embedding_width(load_base(tmp_path)) == 24
    with pytest.raises(ValueError, match="without a text tower"):
        load_clip(tmp_path)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tokenizer: Any) -> None:
    model = tiny_model("siglip", tokenizer)
    model.config.text_config.vocab_size = 5
    with pytest.raises(ValueError, match="knows 5 tokens"):
        text_embeddings(model, tokenizer, TEXTS)


def test_a_model_without_a_tokenizer_says_so(tmp_path: Path, tokenizer: Any) -> None:
    save_clip(tiny_model("eva02_b16", tokenizer), tmp_path)
    with pytest.raises(ValueError, match="has no tokenizer that loads"):
        load_clip_tokenizer(tmp_path)
