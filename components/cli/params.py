"""Print params: as the file has them, with every default, or what differs from another revision."""

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


def show_params(*, is_resolved: bool, revision: str | None) -> list[str]:
    """Return the lines that `llm2clip params` prints.

    Args:
        is_resolved: Every value, those that the file leaves to their defaults too; else the file as it is.
        revision: Of git: the values that differ from that revision's, resolved both.

    Raises:
        ConfigurationError: the params are wrong, or git has no such revision of them.
    """
    now = load_params(PARAMS).model_dump()
    if revision is not None:
        return list(_differences(_at(revision), now)) or [f"no value differs from {revision}"]
    if not is_resolved:
        return PARAMS.read_text("utf-8-sig").splitlines()
    yaml, text = YAML(typ="safe"), io.StringIO()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(now, text)
    return text.getvalue().splitlines()


def _at(revision: str) -> dict[str, Any]:
    done = subprocess.run(["git", "show", f"{revision}:./{PARAMS}"], capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["git failed"]
        raise ConfigurationError(f"{PARAMS} of {revision} not found ({said[0]}); expected a revision of git")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PARAMS.name
        path.write_bytes(done.stdout)
        return load_params(path).model_dump()


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:  # noqa: ANN401 - plain values
    """Yield `train_clip.batch_size: 48 -> 64` for each value that differs; lists are compared as a whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            below = f"{name}.{key}" if name else key
            yield from _differences(old.get(key, ABSENT), new.get(key, ABSENT), below)
    elif old != new:
        yield f"{name}: {old} -> {new}"


PRESETS = Path("presets")


def use_preset(name: str, *, force: bool = False) -> bool:
    """Make params.yaml the preset; return whether it changed.

    Raises:
        ConfigurationError: no such preset, or params.yaml holds edits that nothing else keeps.
    """
    load_params(preset_path(name))
    shipped = {path.stem: path.read_bytes() for path in _shipped()}
    now = PARAMS.read_bytes() if PARAMS.is_file() else b""
    if now == shipped[name]:
        return False
    if now and not force and now not in (*shipped.values(), _committed()):
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
    found = subprocess.run(["git", "show", f"HEAD:./{PARAMS}"], capture_output=True, check=False)
    return found.stdout if found.returncode == 0 else None
