"""Restore a stage's last output if nothing that decides it has changed.

DVC removes a stage's output and reruns the stage when any file below its code folders differs, even by a
docstring or a log line. So the work store holds hard links to the last output of each stage, and a key of
everything that the stage reads according to `dvc.yaml`: artifacts and inputs by their content, params with
their defaults, and code by what it does (`storage.code`). While the key is equal, a rerun puts the links
back; it loads no model and measures nothing.
"""

from __future__ import annotations

import logging
import os
import re
from functools import reduce
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML

from components.errors import DataError
from components.running.output import output
from components.settings.params import Params
from components.storage.atomic import content_key, new_folder, read_json, remove, write_json
from components.storage.code import effect_hash
from components.storage.hashes import known_sha256
from components.storage.layout import MANIFEST, Layout
from components.storage.manifest import listed, read_manifest
from components.storage.result_cache import is_intact, put_files

PIPELINE = Path("dvc.yaml")
LAST = "last"  # in a stage's folder in the work store
ARTIFACT, KEY = "artifact", "key.json"  # in that folder
REACHES_OUTSIDE = {"download", "register"}  # a rerun fetches failed images again, and publishes again
VARIABLE = re.compile(r"\$\{([\w.]+)\}")
log = logging.getLogger("llm2clip")


class LastOutput:
    """The last output of a stage in the work store, and the key of what the stage reads now.

    Args:
        layout: Layout of the project.
        stage: One of `layout.STAGES`.
        params: All params, with `auto` resolved.
    """

    def __init__(self, layout: Layout, stage: str, params: Params) -> None:
        self._layout, self._stage = layout, stage
        self._folder = layout.work(stage) / LAST
        self._artifact = layout.artifact(stage)
        self._deps: list[str] = []
        self._key = None if stage in REACHES_OUTSIDE else self._current_key(params.model_dump(mode="json"))

    def restore(self) -> bool:
        """Put output, metrics and costs back if they were made under the current key.

        Returns:
            Whether they are back; False as well if they are damaged.

        Raises:
            DataError: an artifact that the stage reads is damaged.
        """
        if self._key is None or not self._is_kept():
            return False
        for artifact, below in filter(None, map(self._artifact_of, self._deps)):
            read_manifest(artifact, below)
        with output(self._layout, self._stage) as out:
            out.known += put_files(self._folder / ARTIFACT, out.folder)
        for name, path in self._figures():
            write_json(path, read_json(self._folder / name))
        log.info(
            "%s: nothing that decides its output has changed: the last output is back "
            "(`llm2clip forget %s %s` would have it made anew)",
            self._stage,
            self._stage,
            LAST,
        )
        return True

    def keep(self) -> None:
        """Keep the output of the run that has just ended, instead of that of the run before.

        Nothing is kept without hard links, because it would be a second copy, or if files are in a bucket,
        because only the stage itself finds out whether they are still there.
        """
        if self._key is None or any(entry.is_remote for entry in listed(self._artifact)):
            remove(self._folder)
            return
        try:
            with new_folder(self._folder) as part:
                for path in _files(self._artifact):
                    target = part / ARTIFACT / path.relative_to(self._artifact)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.link(path, target)
                for name, path in self._figures():
                    write_json(part / name, read_json(path))
                write_json(part / KEY, {"key": self._key})
        except OSError:
            remove(self._folder)

    def _is_kept(self) -> bool:
        """Say whether the last output has the current key and is intact."""
        try:
            has_key = read_json(self._folder / KEY)["key"] == self._key
            return has_key and is_intact(self._folder / ARTIFACT)
        except DataError:
            return False

    def _figures(self) -> list[tuple[str, Path]]:
        """Return the stage's files outside its artifact, by their names in the folder of the last output."""
        return [
            ("metrics.json", self._layout.metrics(self._stage)),
            ("costs.json", self._layout.costs(self._stage)),
        ]

    def _current_key(self, values: dict[str, Any]) -> str | None:
        """Return the hash of what the stage reads; None if something is absent, which the stage reports."""
        try:
            text = (self._layout.root / PIPELINE).read_text("utf-8")
            stage = YAML(typ="safe").load(text)["stages"][self._stage]
            used = {name: _value(values, name) for name in stage["params"]}
            self._deps = [
                VARIABLE.sub(lambda found: str(_value(values, found[1])), dep) for dep in stage["deps"]
            ]
            return content_key([used, {dep: self._content(dep) for dep in self._deps}])
        except (OSError, KeyError, TypeError, DataError):
            return None

    def _content(self, dep: str) -> list[list[str]]:
        """Return paths and hashes of the files of a dep."""
        if location := self._artifact_of(dep):
            artifact, below = location
            return [[entry.path, entry.sha256] for entry in listed(artifact) if entry.path.startswith(below)]
        path = self._layout.root / dep
        files = _files(path) if path.is_dir() else [path]
        return [[os.path.relpath(file, path), _hash_of(file)] for file in files]

    def _artifact_of(self, dep: str) -> tuple[Path, str] | None:
        """Return the artifact of a dep and the dep's path in it; None for a dep that is no artifact."""
        first, *rest = PurePosixPath(dep).parts
        artifact = self._layout.artifact(rest[0]) if rest else self._artifact
        if first != artifact.parent.name or rest[1:] == [MANIFEST]:
            return None
        below = "/".join(rest[1:])
        return artifact, f"{below}/" if below and (artifact / below).is_dir() else below


def _value(values: Any, name: str) -> Any:  # noqa: ANN401 - plain values
    return reduce(lambda tree, key: tree[key], name.split("."), values)


def _hash_of(path: Path) -> str:
    return effect_hash(path) if path.suffix == ".py" else known_sha256(path)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
