from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.ml.captioning.small import (
    IGNORED,
    SmallCaptioner,
    SmallCaptionerConfig,
    attribute_loss,
    caption_ids,
    caption_loss,
    greedy,
    load_captioner,
    save_captioner,
    write_texts,
)
from components.ml.text.bpe import train_bpe

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 40), "blue": (30, 60, 220), "white": (240, 240, 240)}
SHORT = [f"a {colour} sheet" for colour in COLOURS]
DENSE = [f"everything in this picture is {colour}, without an end" for colour in COLOURS]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_bpe(SHORT + DENSE, 128, 24)


def captioner(tokenizer: Any) -> SmallCaptioner:
    torch.manual_seed(0)
    return SmallCaptioner(
        SmallCaptionerConfig(
            image_size=16,
            stem_channels=[8, 16],
            layers=2,
            width=32,
            heads=2,
            max_tokens=24,
            vocabulary_size=len(tokenizer),
            end_id=tokenizer.eos_token_id,
            kinds=["short", "dense"],
            attributes=[len(COLOURS), 2],
        )
    )


def sheets() -> Tensor:
    colours = torch.tensor(list(COLOURS.values()), dtype=torch.uint8)
    return colours[:, :, None, None].expand(-1, 3, 16, 16).contiguous()


@pytest.fixture(scope="module")
def taught(tokenizer: Any) -> SmallCaptioner:
    model = captioner(tokenizer).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    values = torch.tensor([[0, 0], [1, 1], [2, 0], [3, 1]])
    for _ in range(40):
        cells = model.encode(sheets())
        loss = attribute_loss(model, cells, values)
        for kind, texts in (("short", SHORT), ("dense", DENSE)):
            loss = loss + caption_loss(model, cells, caption_ids(model, tokenizer, texts, kind))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.encode(sheets())
    return model.eval()


def test_it_learns_what_it_is_shown(taught: SmallCaptioner, tokenizer: Any) -> None:
    assert write_texts(taught, tokenizer, sheets(), "short") == SHORT
    assert write_texts(taught, tokenizer, sheets(), "dense") == DENSE
    assert taught.attribute_logits(taught.encode(sheets()))[0].argmax(1).tolist() == [0, 1, 2, 3]


def test_the_cache_changes_no_token(tokenizer: Any) -> None:
    model = captioner(tokenizer).eval()
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=generator)
    for kind in ("short", "dense"):
        written = greedy(model, images, kind)
        image = model.image_keys_values(model.encode(images))
        ids = torch.full((3, 1), model.control_id(kind))
        for _ in range(model.config.max_tokens):
            logits, _ = model.decode(ids, image)
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
        for row, tokens in enumerate(written):
            assert ids[row, 1 : 1 + len(tokens)].tolist() == tokens
            assert len(tokens) == model.config.max_tokens or ids[row, 1 + len(tokens)] == model.config.end_id


def test_an_image_is_described_the_same_alone_and_in_a_batch(taught: SmallCaptioner, tokenizer: Any) -> None:
    alone = [write_texts(taught, tokenizer, sheets()[row : row + 1], "dense")[0] for row in range(4)]
    assert alone == write_texts(taught, tokenizer, sheets(), "dense")


def test_the_future_of_a_caption_is_not_seen(tokenizer: Any) -> None:
    model = captioner(tokenizer).eval()
    image = model.image_keys_values(model.encode(sheets()[:1]))
    ids = torch.tensor([[model.control_id("short"), 5, 6, 7]])
    other = torch.tensor([[model.control_id("short"), 5, 6, 9]])
    assert torch.allclose(model.decode(ids, image)[0][:, :3], model.decode(other, image)[0][:, :3], atol=1e-6)


def test_captions_start_with_their_kind_and_end_with_the_end(tokenizer: Any) -> None:
    model = captioner(tokenizer)
    ids = caption_ids(model, tokenizer, ["a red sheet", " ".join(["red"] * 60)], "dense")
    assert ids[:, 0].tolist() == [len(tokenizer) + 1] * 2
    assert ids.shape == (2, model.config.max_tokens + 1)
    assert ids[1, -1] == tokenizer.eos_token_id
    assert ids[0, -1] == IGNORED


def test_a_special_token_in_a_caption_ends_nothing(tokenizer: Any) -> None:
    (ids,) = caption_ids(captioner(tokenizer), tokenizer, ["a <eos> red sheet"], "short")
    assert ids.tolist().count(tokenizer.eos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id


def test_padding_does_not_change_the_loss(tokenizer: Any) -> None:
    model = captioner(tokenizer).eval()
    cells = model.encode(sheets()[:1])
    ids = caption_ids(model, tokenizer, SHORT[:1], "short")
    padded = torch.cat([ids, torch.full((1, 5), IGNORED)], dim=1)
    assert torch.allclose(caption_loss(model, cells, ids), caption_loss(model, cells, padded))


def test_saved_and_loaded_it_writes_the_same(taught: SmallCaptioner, tokenizer: Any, tmp_path: Path) -> None:
    save_captioner(taught, tokenizer, tmp_path)
    loaded, words = load_captioner(tmp_path)
    assert loaded.config == taught.config
    assert write_texts(loaded, words, sheets(), "dense") == DENSE


def test_cut_weights_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    save_captioner(captioner(tokenizer), tokenizer, tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="other weights than its config"):
        load_captioner(tmp_path)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no conv_stem_captioner"):
        load_captioner(tmp_path)
