"""Fixtures: what the stages before recaption leave behind, at the smallest size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from components.ml.captioning.small import SmallCaptioner, SmallCaptionerConfig, save_captioner
from components.ml.text.bpe import train_bpe
from components.recaption.captioners.prompted import Order, Reply
from components.recaption.captioners.vision_language import TransformersWriter
from components.sources.scenes.scene import draw_scenes, scene_captions
from components.storage.layout import Layout
from components.storage.manifest import write_manifest
from tests.pairs import write_pairs
from tests.recaption.chat_server import ChatServer, serving
from tests.recaption.project import SHARDS, pairs_of
from tests.recaption.prompted import bring_llava


@pytest.fixture
def layout(workspace: Path) -> Layout:
    """Two shards, and a captioner of random weights."""
    layout = Layout(workspace / ".work")
    download, made = layout.artifact("download"), layout.artifact("base_models") / "captioner"
    rows = {}
    for shard, splits in SHARDS.items():
        rows[f"shards/{shard}.tar"] = write_pairs(
            download / "shards" / f"{shard}.tar", pairs_of(shard, splits)
        )
    write_manifest(download, rows)
    made.mkdir(parents=True)
    words = [" ".join(scene_captions(scene)["dense"]) for scene in draw_scenes("words", "train", 20, 1)]
    tokenizer = train_bpe(words, 200, 24)
    torch.manual_seed(3)
    config = SmallCaptionerConfig(
        32, [8, 16], 1, 16, 2, 24, len(tokenizer), tokenizer.eos_token_id, ["short", "dense"], [2]
    )
    save_captioner(SmallCaptioner(config), tokenizer, made)
    write_manifest(made.parent)
    return layout


@pytest.fixture
def llava(layout: Layout) -> Layout:
    """The same with a tiny LLaVA among the base models."""
    bring_llava(layout)
    return layout


@pytest.fixture
def server() -> Iterator[ChatServer]:
    """An endpoint on loopback."""
    with serving(ChatServer()) as running:
        yield running


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[Order]:
    """What transformers is asked for from now on."""
    seen: list[Order] = []
    replies = TransformersWriter.replies

    def counted(self: TransformersWriter, orders: Sequence[Order]) -> Iterator[tuple[int, Reply]]:
        seen.extend(orders)
        return replies(self, orders)

    monkeypatch.setattr(TransformersWriter, "replies", counted)
    return seen
