"""Hand-made artifacts of everything upstream of train_clip and evaluate: rendered scenes, their captions, a
random CLIP, and embeddings in which every fact of a scene has a direction of its own."""

from __future__ import annotations

import shutil
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from components.ml.text.bpe import train_bpe
from components.ml.text.lexical import words
from components.ml.vision.clip import load_clip_tokenizer, save_clip
from components.ml.vision.conv_stem import ConvStemCLIPConfig, ConvStemCLIPModel
from components.ml.vision.towers import save_vision_encoder, vision_encoder_of
from components.running.embedding_headers import llm_header
from components.settings.params import Params, load_params
from components.settings.train_clip import ValidationSettings
from components.sources.scenes.scene import (
    COLUMN_LANGUAGES,
    draw_scenes,
    render,
    scene_captions,
    scene_labels,
)
from components.storage.atomic import write_json
from components.storage.embeddings import EMBEDDED_CAPTIONS, EMBEDDED_PROMPTS, PROMPTS, write_embeddings
from components.storage.layout import Layout
from components.storage.manifest import write_manifest
from components.storage.shards import Pair
from components.storage.side_tables import Caption, write_captions, write_keys
from tests.ml.towers import tiny_model
from tests.pairs import write_pairs

ROOT = Path(__file__).resolve().parents[1]
SIZE = 32  # pixels
WIDTH = 24  # of the embeddings
CONTEXT = 16
COUNTS = {"train": 24, "validation": 6, "test": 12}
TASK = {"name": "object", "label": "object", "templates": ["a {label}", "a picture of a {label}"]}


def small(smoke: Params) -> Params:
    """Return params that fit the artifacts below: six equal steps an arm, no `tiny_*` columns."""
    steps = {"steps": 6, "captions_per_image": 1, "caption_negatives": 0}
    arms = [arm.model_copy(update=steps) for arm in smoke.train_clip.arms]
    train_clip = smoke.train_clip.model_copy(
        update={
            "arms": arms,
            "caption_mix": {"alt": 0.5, "short": 0.25, "dense": 0.25},
            "batch_size": 8,
            "checkpoint_steps": 2,
            "projection_dim": 16,
            "validation": ValidationSettings(steps=None, recall_at=1, keep="last", retrieval=[]),
        }
    )
    return smoke.model_copy(update={"train_clip": train_clip})


def make_artifacts(layout: Layout, llms: tuple[str, ...] = ("base", "tuned")) -> list[Caption]:
    """Write download, recaption, audit, base_models and embed_captions; return all captions."""
    pairs, captions = _scenes()
    half = len(pairs) // 2
    _write_clip(layout.artifact("base_models"), [caption.text for caption in captions])
    _write_llms(layout)
    shards = {"00000": pairs[:half], "00001": pairs[half:]}
    rows = {f"shards/{name}.tar": len(part) for name, part in shards.items()}
    for name, part in shards.items():
        keys = [pair.key for pair in part]
        of_shard = [caption for caption in captions if caption.key in set(keys)]
        write_pairs(layout.artifact("download") / "shards" / f"{name}.tar", part)
        write_captions(layout.artifact("recaption") / "captions" / f"{name}.parquet", of_shard)
        write_keys(layout.artifact("audit") / "kept" / f"{name}.parquet", keys)
        for llm in llms:
            _write_embeddings(layout, llm, name, of_shard)
    for llm in llms:
        _write_prompts(layout, llm, pairs)
    write_json(layout.artifact("audit") / "verdict.json", {"passed": True, "gates": []})
    write_manifest(layout.artifact("download"), rows)
    for stage in ("recaption", "audit", "embed_captions"):
        write_manifest(layout.artifact(stage))
    return captions


def put_base(layout: Layout, family: str, *, with_text: bool = True) -> None:
    """Put a tiny random model of another family, or its vision tower alone, in the place of the base CLIP."""
    folder = layout.artifact("base_models") / "clip"
    tokenizer = load_clip_tokenizer(folder)
    model = tiny_model(family, tokenizer)
    shutil.rmtree(folder)
    if with_text:
        save_clip(model, folder)
        tokenizer.save_pretrained(folder)
    else:
        save_vision_encoder(vision_encoder_of(model, None), folder)
    write_manifest(layout.artifact("base_models"))


def _scenes() -> tuple[list[Pair], list[Caption]]:
    pairs, captions = [], []
    for split, count in COUNTS.items():
        for scene in draw_scenes("toy", split, count, 1):
            key = f"{split}{scene.number:04d}"
            for column, texts in scene_captions(scene).items():
                captions += [
                    Caption(key, split, column, COLUMN_LANGUAGES[column], number, text, "toy")
                    for number, text in enumerate(texts)
                ]
            file = BytesIO()
            render(scene, SIZE).save(file, "JPEG", quality=95)
            pairs.append(
                Pair(key, file.getvalue(), captions[-1].text, {"split": split, "labels": scene_labels(scene)})
            )
    return pairs, captions


def embed(texts: list[str]) -> Tensor:
    """Embed texts as sums of one random direction a word."""
    rows = []
    for text in texts:
        seeds = [int.from_bytes(sha256(word.encode()).digest()[:4]) for word in words(text)]
        rows.append(sum(torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in seeds))
    return torch.stack(rows)  # type: ignore[arg-type]


def _write_llms(layout: Layout) -> None:
    """Write what stands for the language models, for headers name them."""
    tuned = layout.artifact("tune_llm")
    write_json(layout.artifact("base_models") / "llm" / "config.json", {"of": "base"})
    write_json(tuned / "llm" / "config.json", {"of": "tuned"})
    write_json(tuned / "encoding.json", {"pooling": "mean"})
    write_manifest(layout.artifact("base_models"))
    write_manifest(tuned)


def _about(layout: Layout, llm: str) -> dict[str, Any]:
    params = load_params(ROOT / "presets" / "smoke.yaml").embed_captions
    return llm_header(layout, llm, params, verify=False)


def _write_embeddings(layout: Layout, llm: str, shard: str, captions: list[Caption]) -> None:
    about = _about(layout, llm)
    folder = layout.artifact("embed_captions") / llm
    for column in sorted({caption.column for caption in captions}):
        of_column = [caption for caption in captions if caption.column == column]
        _write_column(folder / column, shard, about, of_column)


def _write_column(folder: Path, shard: str, about: dict[str, Any], captions: list[Caption]) -> None:
    texts = list(dict.fromkeys(caption.text for caption in captions))
    numbers = {text: row for row, text in enumerate(texts)}
    table = [
        {name: getattr(caption, name) for name in EMBEDDED_CAPTIONS.names if name != "row"}
        | {"row": numbers[caption.text]}
        for caption in captions
    ]
    write_embeddings(
        folder,
        shard,
        about,
        pa.Table.from_pylist(table, schema=EMBEDDED_CAPTIONS),
        embed(texts),
    )


def _write_prompts(layout: Layout, llm: str, pairs: list[Pair]) -> None:
    labels = sorted(
        {
            label
            for pair in pairs
            if pair.metadata["split"] == "test"
            for label in pair.metadata["labels"]["object"]
        }
    )
    templates: Any = TASK["templates"]
    lines = [
        {"task": "object", "label": label, "template": template} for label in labels for template in templates
    ]
    table = pa.Table.from_pylist(
        [{**line, "row": row} for row, line in enumerate(lines)], schema=EMBEDDED_PROMPTS
    )
    texts = [line["template"].replace("{label}", line["label"]) for line in lines]
    folder = layout.artifact("embed_captions") / llm
    write_embeddings(folder, PROMPTS, _about(layout, llm), table, embed(texts))


def _write_clip(folder: Path, texts: list[str]) -> None:
    tokenizer = train_bpe(texts, 256, CONTEXT, padding_side="right", ends_with_eos=True)
    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "projection_dim": 16,
    }
    text = {
        **shape,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": CONTEXT,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {**shape, "image_size": SIZE, "patch_size": 8, "stem_channels": [4, 8, 8]}
    torch.manual_seed(0)
    model = ConvStemCLIPModel(ConvStemCLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    save_clip(model.eval(), folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    write_json(folder / "about.json", {"clip": {"kind": "made", "trained": False}})
