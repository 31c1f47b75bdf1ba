"""Two shards of download in a project, and the stage run on them with captioners of choice."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from components.recaption.stage import run
from components.settings.environment import Environment
from components.settings.params import Params
from components.sources.scenes.scene import draw_scenes, render, scene_captions
from components.storage.atomic import read_json
from components.storage.layout import Layout
from components.storage.shards import Pair
from components.storage.side_tables import Caption, Draft, read_captions, read_drafts

TINY: dict[str, Any] = {
    "kind": "model",
    "name": "tiny",
    "writes": ["short", "dense"],
    "splits": ["train", "validation"],
}
TAKE: dict[str, Any] = {
    "source": "alt",
    "column": "again",
    "take": "first",
    "splits": ["train", "validation", "test"],
}
COLUMNS: dict[str, Any] = {"kind": "columns", "name": "mine", "columns": [TAKE]}
SHARDS = {"00000": ["train"] * 5 + ["validation"], "00001": ["train", "test", "validation", "validation"]}


def pairs_of(shard: str, splits: list[str]) -> list[Pair]:
    pairs = []
    for number, split in enumerate(splits):
        scene = next(draw_scenes(f"recaption_{shard}_{number}", split, 1, 5))
        file = BytesIO()
        render(scene, 32).save(file, "JPEG", quality=95)
        captions: list[dict[str, Any]] = [
            {"column": column, "language": "en", "number": place, "text": text, "writer": "scenes"}
            for column, texts in scene_captions(scene).items()
            if column in (["alt"] if split == "train" else ["alt", "short", "dense"])
            for place, text in enumerate(texts)
        ]
        metadata = {"split": split, "captions": captions, "labels": {}}
        pairs.append(Pair(f"k{shard}x{number}", file.getvalue(), captions[0]["text"], metadata))
    return pairs


def with_captioners(
    smoke: Params, captioners: list[dict[str, Any]], share: float = 1.0, seed: int = 7, **gates: Any
) -> Params:
    tree = smoke.model_dump()
    tree["seed"] = seed
    tree["recaption"] |= {"captioners": captioners, "max_reject_share": share, "scores": None}
    tree["recaption"]["gates"] |= gates
    models = sorted({one["model"] for one in captioners if one["kind"] in ("vision_language", "vllm")})
    source = {"kind": "folder", "path": "models/any"}
    tree["base_models"]["vision_language"] = [{"name": name, "source": source} for name in models]
    return Params.model_validate(tree)


def run_with(
    smoke: Params,
    layout: Layout,
    *captioners: dict[str, Any],
    share: float = 1.0,
    seed: int = 7,
    environment: dict[str, Any] | None = None,
    **gates: Any,
) -> dict[str, Any]:
    """Run the stage and return its metrics; `gates` are changes to those of the preset."""
    env = Environment(work_store=layout.work_store, **(environment or {}))
    run(with_captioners(smoke, list(captioners), share, seed, **gates), env)
    metrics: dict[str, Any] = read_json(layout.metrics("recaption"))
    return metrics


def written(layout: Layout, shard: str) -> list[Caption]:
    return read_captions(layout.artifact("recaption") / "captions" / f"{shard}.parquet")


def rejected(layout: Layout, shard: str) -> list[Draft]:
    return read_drafts(layout.artifact("recaption") / "rejected" / f"{shard}.parquet")
