"""How wide a params file's LLM is and how many weights it has, where params or a folder of inputs say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.running.model_weights import weights_in
from components.running.planning import Figure
from components.settings.base_models import FolderModel, MadeLlm
from components.settings.params import Params
from components.storage.atomic import read_json

LAYER_MATRICES = 4  # of attention, each width x width; the feed-forward part has three


def llm_width(params: Params, inputs: Path) -> Figure | None:
    """Return the numbers of one of its embeddings."""
    llm = params.base_models.llm
    if isinstance(llm, MadeLlm):
        return Figure(llm.width, "base_models.llm")
    width = config_in(inputs / llm.path).get("hidden_size") if isinstance(llm, FolderModel) else None
    return Figure(width, str(llm.path)) if width and isinstance(llm, FolderModel) else None


def llm_weights(params: Params, inputs: Path) -> Figure | None:
    """Return its weights."""
    llm = params.base_models.llm
    if isinstance(llm, MadeLlm):
        layer = LAYER_MATRICES * llm.width**2 + 3 * llm.width * llm.feed_forward
        return Figure(llm.layers * layer + llm.vocabulary_size * llm.width, "base_models.llm")
    count = weights_in(inputs / llm.path) if isinstance(llm, FolderModel) else 0
    return Figure(count, str(llm.path)) if count and isinstance(llm, FolderModel) else None


def config_in(folder: Path) -> dict[str, Any]:
    """Return a model's config; empty where there is none."""
    path = folder / "config.json"
    return read_json(path) if path.is_file() else {}
