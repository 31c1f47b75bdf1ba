from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from components.ml.text.bpe import train_bpe
from components.ml.vision.clip import (
    are_cut,
    image_embeddings,
    load_clip,
    load_clip_tokenizer,
    save_clip,
    text_embeddings,
    text_tokens,
    with_context,
)
from components.ml.vision.conv_stem import ConvStemCLIPConfig, ConvStemCLIPModel, grid_side
from components.ml.vision.towers import (
    encode_images,
    load_vision_encoder,
    pixels_for,
    save_vision_encoder,
    vision_encoder_of,
)
from tests.ml.towers import tiny_model, tiny_tokenizer

TEXTS = ["a red circle", "two blue squares on white", "one"]
SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "projection_dim": 8,
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_bpe(TEXTS, 64, 16, padding_side="right", ends_with_eos=True)


def text_config(tokenizer: Any) -> dict[str, Any]:
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return {**SHAPE, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 16}


def conv_stem_clip(tokenizer: Any, size: int = 72, pooling: str = "class") -> ConvStemCLIPModel:
    torch.manual_seed(0)
    stem = {"stem_channels": [4, 8, 8, 16], "pooling": pooling}
    vision = {**SHAPE, "image_size": size, "patch_size": 16, **stem}
    model = ConvStemCLIPModel(
        ConvStemCLIPConfig(text_config=text_config(tokenizer), vision_config=vision, projection_dim=8)
    )
    image_embeddings(model.train(), pictures(size))  # BatchNorm's statistics are no longer their defaults
    return model.eval()


def plain_clip(tokenizer: Any) -> CLIPModel:
    torch.manual_seed(0)
    vision = {**SHAPE, "image_size": 32, "patch_size": 8}
    return CLIPModel(
        CLIPConfig(text_config=text_config(tokenizer), vision_config=vision, projection_dim=8)
    ).eval()


def pictures(size: int, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def test_mean_pooling_is_over_the_cells_and_is_saved(tokenizer: Any, tmp_path: Path) -> None:
    model, by_class = (conv_stem_clip(tokenizer, pooling=pooling) for pooling in ("mean", "class"))
    pixels = pixels_for(model, pictures(72))
    output = model.vision_model(pixels)
    cells = output.last_hidden_state[:, 1:]
    assert cells.shape[1] == 25
    pooled = torch.nn.functional.layer_norm(cells.mean(dim=1), cells.shape[2:])  # fresh: weight 1, bias 0
    assert torch.allclose(output.pooler_output, pooled, atol=1e-5)
    assert not torch.allclose(by_class.vision_model(pixels).pooler_output, pooled, atol=1e-2)

    save_clip(model, tmp_path)
    assert torch.equal(
        image_embeddings(load_clip(tmp_path), pictures(72)), image_embeddings(model, pictures(72))
    )
    alone = vision_encoder_of(model, None)
    assert torch.equal(encode_images(alone, pictures(72)), image_embeddings(model, pictures(72)))


def test_another_pooling_is_refused(tokenizer: Any) -> None:
    with pytest.raises(StrictDataclassFieldValidationError, match="pooling"):
        conv_stem_clip(tokenizer, pooling="max")


@pytest.mark.parametrize(("size", "side"), [(64, 4), (72, 5), (65, 5), (16, 1)])
def test_the_stem_makes_the_grid_it_says(tokenizer: Any, size: int, side: int) -> None:
    model = conv_stem_clip(tokenizer, size)
    stem = model.vision_model.embeddings.patch_embedding
    assert stem(torch.zeros(1, 3, size, size)).shape[-2:] == (side, side)
    assert grid_side(size, [1] * 4) == side


@pytest.mark.parametrize("make", [conv_stem_clip, plain_clip])
def test_saved_and_loaded_it_embeds_the_same(tmp_path: Path, tokenizer: Any, make: Any) -> None:
    model = make(tokenizer)
    images = pictures(model.config.vision_config.image_size)
    save_clip(model, tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, words = load_clip(tmp_path), load_clip_tokenizer(tmp_path)
    assert isinstance(loaded, CLIPModel)
    assert torch.equal(image_embeddings(loaded, images), image_embeddings(model, images))
    assert torch.equal(text_embeddings(loaded, words, TEXTS), text_embeddings(model, tokenizer, TEXTS))
    assert torch.allclose(image_embeddings(loaded, images).norm(dim=1), torch.ones(5))


@pytest.mark.parametrize("make", [conv_stem_clip, plain_clip])
def test_the_vision_tower_alone_is_the_models(tmp_path: Path, tokenizer: Any, make: Any) -> None:
    model = make(tokenizer)
    images = pictures(model.config.vision_config.image_size)
    save_vision_encoder(vision_encoder_of(model, None), tmp_path)
    encoder = load_vision_encoder(tmp_path)
    assert torch.equal(encode_images(encoder, images), image_embeddings(model, images))
    assert encode_images(vision_encoder_of(model, 24), images).shape == (5, 24)


def test_equal_models_make_equal_bytes(tmp_path: Path, tokenizer: Any) -> None:
    for name in ("one", "two"):
        save_clip(conv_stem_clip(tokenizer), tmp_path / name)
    for file in sorted((tmp_path / "one").iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_plain_transformers_does_not_know_the_stem() -> None:
    assert "conv_stem_clip" not in CONFIG_MAPPING_NAMES
    assert "conv_stem_clip_vision_model" not in CONFIG_MAPPING_NAMES


def test_a_longer_context_keeps_what_was_learned(tokenizer: Any) -> None:
    model = conv_stem_clip(tokenizer)
    longer = with_context(model, 40)
    old = model.text_model.embeddings.position_embedding.weight
    new = longer.text_model.embeddings.position_embedding.weight
    assert torch.equal(new[:16], old)
    assert torch.allclose(new[-1], old[-1])
    assert torch.equal(text_embeddings(longer, tokenizer, TEXTS), text_embeddings(model, tokenizer, TEXTS))
    long_text = ["circle " * 30]
    assert not torch.equal(
        text_embeddings(longer, tokenizer, long_text), text_embeddings(model, tokenizer, long_text)
    )
    assert model.config.text_config.max_position_embeddings == 16
    assert new.requires_grad


def test_a_text_is_embedded_the_same_alone_and_beside_longer_ones(tokenizer: Any) -> None:
    model = conv_stem_clip(tokenizer)
    together = text_embeddings(model, tokenizer, TEXTS)
    alone = torch.cat([text_embeddings(model, tokenizer, [text]) for text in TEXTS])
    assert torch.allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("family", ["clip_b16", "siglip", "eva02_b16"])
@pytest.mark.parametrize("word", ["<bos>", "<eos>", "<pad>", "<unk>"])
def test_what_follows_a_special_token_in_a_caption_counts(family: str, word: str) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(family, tokenizer)
    rows = text_embeddings(model, tokenizer, [f"a {word} red", f"a {word} blue", f"a {word}"])
    rows = rows.detach()
    assert float((rows @ rows.T - 2 * torch.eye(3)).max()) < 0.9999
    ids, mask = text_tokens(model, tokenizer, [f"a {word} red", "a"])
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    end = int(mask[0].sum()) - 1 if family != "siglip" else ids[0].tolist().index(tokenizer.eos_token_id)
    assert special.isdisjoint(ids[0, 1:end].tolist())
    assert int(ids[0, end]) == tokenizer.eos_token_id
    assert are_cut(model, tokenizer, [f"a {word}", f"a {word} " * 20]) == [False, True]


def test_a_tokenizer_of_another_model_is_refused(tokenizer: Any) -> None:
    endless = train_bpe(TEXTS, 64, 16, padding_side="right")
    with pytest.raises(ValueError, match="pools at"):
        text_embeddings(conv_stem_clip(tokenizer), endless, TEXTS)


def test_an_old_config_pools_at_the_highest_token(tokenizer: Any) -> None:
    model = plain_clip(tokenizer)
    model.config.text_config.eos_token_id = 2
    with pytest.raises(ValueError, match="pools at 2"):
        text_embeddings(model, tokenizer, TEXTS)


@pytest.mark.parametrize("damage", ["missing", "shape", "nan", "cut"])
def test_damaged_weights_are_refused(tmp_path: Path, tokenizer: Any, damage: str) -> None:
    save_clip(conv_stem_clip(tokenizer), tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    if damage == "missing":
        del weights["visual_projection.weight"]
    elif damage == "shape":
        weights["visual_projection.weight"] = torch.zeros(3, 3)
    elif damage == "nan":
        weights["visual_projection.weight"][0, 0] = float("nan")
    save_file(weights, path, {"format": "pt"})
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="visual_projection|cannot be loaded"):
        load_clip(tmp_path)


def test_other_kinds_of_models_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_clip(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="llama; expected one of clip, conv_stem_clip"):
        load_clip(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip2"}))
    with pytest.raises(ValueError, match=r"siglip2 .*take a SigLIP 2 of a fixed resolution"):
        load_clip(tmp_path)


def test_images_of_another_size_are_refused(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="72 x 72 only"):
        image_embeddings(conv_stem_clip(tokenizer), pictures(64))
