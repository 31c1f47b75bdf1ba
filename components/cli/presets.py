"""Copy a preset to params.yaml without losing edits."""

from __future__ import annotations

import subprocess
from pathlib import Path

from components.errors import ConfigurationError
from components.settings.params import load_params
from components.storage.atomic import write_bytes
from components.storage.layout import PARAMS

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
