"""Training checkpoints; a run resumes only from an intact checkpoint of the same identity."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import DataError
from components.storage.atomic import new_folder, read_json, remove, write_json
from components.storage.manifest import read_manifest, write_manifest

if TYPE_CHECKING:
    from torch import Tensor

KEPT = 2
log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one training run: `<folder>/<step>/` with tensors, state and manifest.

    Args:
        folder: Folder in the work store.
        identity: Everything that decides the run, as plain values: params, data hash, `format_version`. A run
            with another identity starts fresh, and the log says which value changed.
        is_writer: Whether this process writes; of the processes that train together, one does.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], *, is_writer: bool = True) -> None:
        self.folder = folder
        self.identity = json.loads(json.dumps(identity))
        if is_writer:
            self._start()

    def _start(self) -> None:
        path = self.folder / "identity.json"
        if path.is_file():
            try:
                old = read_json(path)
            except DataError:
                old = {}
            if old == self.identity:
                return
            log.warning("params changed (%s): starting fresh", _difference(old, self.identity))
            remove(self.folder)
        write_json(path, self.identity)

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Save a checkpoint and remove all but the newest two."""
        from safetensors.torch import save_file

        with new_folder(self.folder / f"{step:08d}") as part:
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()}, part / "tensors.safetensors"
            )
            write_json(part / "state.json", {"step": step, **state})
            write_manifest(part)
        for folder in self._steps()[:-KEPT]:
            remove(folder)
        log.info("%s: checkpoint at step %d", self.folder.name, step)

    def load(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """Return the step, tensors and state of the newest intact checkpoint, or None."""
        from safetensors.torch import load_file

        for folder in reversed(self._steps()):
            try:
                read_manifest(folder)
            except DataError as error:
                log.warning("checkpoint skipped: %s", error)
                continue
            state = read_json(folder / "state.json")
            return int(state["step"]), load_file(folder / "tensors.safetensors"), state
        return None

    def clear(self) -> None:
        """Remove all checkpoints once their run is finished."""
        remove(self.folder)

    def _steps(self) -> list[Path]:
        if not self.folder.is_dir():  # a process on another machine does not see the writer's disk
            return []
        return sorted(path for path in self.folder.iterdir() if path.is_dir() and path.name.isdigit())


def _difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str:
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            return _difference(before, after, f"{prefix}{key}.")
        return f"{prefix}{key} {before} -> {after}"
    return "the identity file was damaged"
