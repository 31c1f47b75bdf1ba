"""Print params.yaml as it is, with all defaults, or as a diff to a git revision; apply a preset."""

from __future__ import annotations

import io
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from components.errors import ConfigurationError
from components.settings.params import load_params
from components.storage.atomic import write_bytes
from components.storage.layout import PARAMS

ABSENT = "absent"
PRESETS = Path("presets")


def show_params(*, is_resolved: bool, revision: str | None) -> list[str]:
    """Return the lines that `llm2clip params` prints.

    Args:
        is_resolved: Return every value, including defaults; False: the file as it is.
        revision: Git revision; return the values that differ from its params, defaults included.

    Raises:
        ConfigurationError: the params are wrong, or git has no such revision.
    """
    current = load_params(PARAMS).model_dump()
    if revision is not None:
        return list(_differences(_params_at(revision), current)) or [f"no value differs from {revision}"]
    if not is_resolved:
        return PARAMS.read_text("utf-8-sig").splitlines()
    yaml, text = YAML(typ="safe"), io.StringIO()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(current, text)
    return text.getvalue().splitlines()


def _params_at(revision: str) -> dict[str, Any]:
    process = subprocess.run(["git", "show", f"{revision}:./{PARAMS}"], capture_output=True, check=False)
    if process.returncode:
        message = process.stderr.decode(errors="replace").strip().splitlines() or ["git failed"]
        raise ConfigurationError(f"{PARAMS} of {revision} not found ({message[0]}); expected a git revision")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PARAMS.name
        path.write_bytes(process.stdout)
        return load_params(path).model_dump()


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:  # noqa: ANN401 - plain values
    """Yield `train_clip.batch_size: 48 -> 64` for each value that differs; lists are compared as a whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            key_name = f"{name}.{key}" if name else key
            yield from _differences(old.get(key, ABSENT), new.get(key, ABSENT), key_name)
    elif old != new:
        yield f"{name}: {old} -> {new}"


def use_preset(name: str, *, force: bool = False) -> bool:
    """Copy a preset to params.yaml; return True if the file changed.

    Raises:
        ConfigurationError: no such preset, or params.yaml has edits that are saved nowhere else.
    """
    load_params(preset_path(name))
    shipped = {path.stem: path.read_bytes() for path in _shipped()}
    current = PARAMS.read_bytes() if PARAMS.is_file() else b""
    if current == shipped[name]:
        return False
    if current and not force and current not in (*shipped.values(), _committed()):
        raise ConfigurationError(
            "params.yaml has edits that are neither committed nor a shipped preset: commit them, or --force"
        )
    write_bytes(PARAMS, shipped[name])
    return True


def preset_path(name: str) -> Path:
    """Return the file of a preset.

    Raises:
        ConfigurationError: no such preset.
    """
    shipped = {path.stem: path for path in _shipped()}
    if name not in shipped:
        raise ConfigurationError(f"no preset {name}; expected one of {', '.join(shipped)}")
    return shipped[name]


def _shipped() -> list[Path]:
    return sorted(PRESETS.glob("*.yaml"))


def _committed() -> bytes | None:
    process = subprocess.run(["git", "show", f"HEAD:./{PARAMS}"], capture_output=True, check=False)
    return process.stdout if process.returncode == 0 else None
