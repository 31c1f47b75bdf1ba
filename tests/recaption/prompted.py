"""Captioners that are prompted, and what they leave behind in the project of `project`."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr
from safetensors.torch import load_file, save_file

from components.storage.layout import Layout
from components.storage.manifest import write_manifest
from tests.recaption.chat_server import ChatServer
from tests.recaption.project import SHARDS, rejected, written
from tests.vision_language import EOS, write_llava

REQUESTS: dict[str, Any] = {
    "deadline_seconds": 20.0,
    "retries": 2,
    "backoff_seconds": 0.001,
    "max_retry_after_seconds": 0.002,
    "connections": 4,
    "max_failures_in_a_row": 3,
    "retry_rounds": 0,
}
PROMPTED: dict[str, Any] = {
    "prompts": {"short": "describe the image", "dense": "describe the red circle and the dogs in the image"},
    "max_new_tokens": {"short": 12, "dense": 24},
    "temperature": 0.0,
    "language": "en",
    "splits": ["train", "validation"],
}
NEAR: dict[str, Any] = {
    **PROMPTED, "kind": "vision_language", "name": "near", "model": "llava", "batch_tokens": 200,
    "precision": "fp32",
}  # fmt: skip
FAR: dict[str, Any] = {
    **PROMPTED,
    "kind": "endpoint",
    "name": "far",
    "model": "m",
    "revision": "1",
    "requests": REQUESTS,
}
LOUD_END = 2.5  # some captions come to an end
ASKED = 9  # rows of train and validation


def bring_llava(layout: Layout) -> None:
    """Put a tiny LLaVA where base_models brings it."""
    folder = layout.artifact("base_models") / "vision_language" / "llava"
    folder.mkdir(parents=True)
    write_llava(folder)
    weights = load_file(folder / "model.safetensors")
    weights["language_model.lm_head.weight"][EOS] *= LOUD_END
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_manifest(layout.artifact("base_models"))


def far(server: ChatServer, key: str = "") -> dict[str, Any]:
    return {"caption_endpoint": server.url, "caption_endpoint_key": SecretStr(key)}


def texts(layout: Layout, column: str, *, good: bool = True) -> dict[str, str]:
    """Return what a column holds by key, of both shards."""
    drafts = [one.caption for shard in SHARDS for one in rejected(layout, shard)]
    captions = [one for shard in SHARDS for one in written(layout, shard)]
    return {one.key: one.text for one in (captions if good else drafts) if one.column == column}
