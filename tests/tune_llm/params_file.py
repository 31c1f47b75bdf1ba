"""The workspace's params.yaml with another tune_llm, for processes that read it themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from components.settings.params import Params, load_params

PARAMS = Path("params.yaml")


def change_params(**changes: Any) -> Params:
    """Write values of tune_llm into params.yaml and return it; a function is given what was there."""
    params = load_params(PARAMS)
    update = {
        name: value(getattr(params.tune_llm, name)) if callable(value) else value
        for name, value in changes.items()
    }
    changed = params.tune_llm.model_copy(update=update).model_dump()
    yaml = YAML()
    tree = yaml.load(PARAMS.read_text("utf-8"))
    tree["tune_llm"] = changed
    with PARAMS.open("w", encoding="utf-8") as file:
        yaml.dump(tree, file)
    return load_params(PARAMS)
