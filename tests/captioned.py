"""What the stages before tune_llm leave behind, at the smallest size, from captions of procedural scenes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import AutoModel, LlamaConfig, LlamaForCausalLM

from components.ml.text.bpe import train_bpe
from components.sources.scenes.scene import COLUMN_LANGUAGES, draw_scenes, scene_captions, scene_labels
from components.storage.atomic import write_json
from components.storage.layout import Layout
from components.storage.manifest import write_manifest
from components.storage.shards import Pair
from components.storage.side_tables import Caption, write_captions, write_keys
from tests.pairs import write_pairs

COUNTS = {"train": 24, "validation": 10, "test": 6}
SHARD_ROWS = 20
MAX_TOKENS = 192


def scene_texts(name: str, split: str, count: int) -> list[list[Caption]]:
    """Return the captions of scenes, all columns."""
    return [
        [
            Caption(f"{name}{split}{number}", split, column, COLUMN_LANGUAGES[column], place, text, "scenes")
            for column, texts in scene_captions(scene).items()
            for place, text in enumerate(texts)
        ]
        for number, scene in enumerate(draw_scenes(name, split, count, 3))
    ]


def write_llm(folder: Path, texts: Iterable[str], *, seed: int = 0) -> None:
    """Write a random Llama and its vocabulary."""
    tokenizer = train_bpe(texts, 300, MAX_TOKENS)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def store_llm(layout: Layout, dtype: torch.dtype) -> Path:
    """Store the base model's weights, rounded to bf16, in files of `dtype`; return its folder."""
    base = layout.artifact("base_models")
    model = AutoModel.from_pretrained(base / "llm", dtype=torch.float32)
    model.bfloat16().to(dtype).save_pretrained(base / "llm")
    write_manifest(base)
    return base / "llm"


def write_artifacts(layout: Layout) -> None:
    """Write download, base_models, recaption and audit: two shards of image rows, one table of text rows.

    One row of the second shard is not kept.
    """
    texts = [row for split in ("train", "validation") for row in scene_texts("texts", split, COUNTS[split])]
    images = [row for split, count in COUNTS.items() for row in scene_texts("images", split, count)]
    labels = [
        scene_labels(scene)
        for split, count in COUNTS.items()
        for scene in draw_scenes("images", split, count, 3)
    ]
    download, base = layout.artifact("download"), layout.artifact("base_models")
    recaption, audit = layout.artifact("recaption"), layout.artifact("audit")
    write_captions(download / "texts" / "00000.parquet", [caption for row in texts for caption in row])
    rows = {}
    for number, start in enumerate(range(0, len(images), SHARD_ROWS)):
        shard = images[start : start + SHARD_ROWS]
        pairs = [
            Pair(row[0].key, b"jpeg", row[0].text, {"split": row[0].split, "labels": labels[start + place]})
            for place, row in enumerate(shard)
        ]
        rows[f"shards/{number:05d}.tar"] = write_pairs(download / f"shards/{number:05d}.tar", pairs)
        # an image that is trained on comes without the truth about it
        seen = [
            caption for row in shard for caption in row if caption.split != "train" or caption.column == "alt"
        ]
        write_captions(recaption / "captions" / f"{number:05d}.parquet", seen)
        keys = [row[0].key for row in shard]
        write_keys(audit / "kept" / f"{number:05d}.parquet", keys[1:] if number else keys)
    write_json(audit / "verdict.json", {"passed": True, "gates": []})
    write_llm(base / "llm", [caption.text for row in texts for caption in row])
    write_manifest(download, rows)
    for folder in (base, recaption, audit):
        write_manifest(folder)
