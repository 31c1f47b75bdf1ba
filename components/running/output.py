"""Write a stage's artifact and metrics: build them in the work store, then rename them into place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.running.signals import raise_if_stopped
from components.storage.atomic import remove, replace_folder, write_json
from components.storage.layout import Layout
from components.storage.manifest import Entry, write_manifest


class Output:
    """The folder being built.

    Attributes:
        folder: Folder to write to.
        rows: Row counts for the manifest, by path.
        known: Manifest entries of its files that are in a bucket or were verified in this run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, int] = {}
        self.known: list[Entry] = []


@contextmanager
def output(layout: Layout, stage: str) -> Iterator[Output]:
    """Yield an empty folder that becomes `artifacts/<stage>` with a manifest when the block ends well.

    Raises:
        Stopped: a stop signal came whose exception was lost.
    """
    build = layout.work(stage) / "build"
    remove(build)
    build.mkdir(parents=True)
    out = Output(build)
    yield out
    write_manifest(build, out.rows, out.known)
    raise_if_stopped()
    replace_folder(build, layout.artifact(stage))


def write_metrics(layout: Layout, stage: str, tree: dict[str, Any]) -> None:
    """Write `metrics/<stage>.json`: figures that equal params, inputs and code reproduce."""
    write_json(layout.metrics(stage), tree)
