"""Delete cached results of a stage from the work store, so that they are made or fetched again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from components.errors import ConfigurationError
from components.running.last_output import LAST
from components.running.lock import one_writer
from components.storage.atomic import remove
from components.storage.layout import STAGES, Layout

PIECES = "pieces"
NO_RESULTS = {"build", "matching", "planned", "search", "worked"}
FETCHING = {"download", "base_models", "recaption", "embed_captions"}  # their results may be fetched
MEGABYTE = 1_000_000


def forget(
    layout: Layout, stage: str, names: Collection[str], shard: str | None, *, fetched: bool = False
) -> list[str]:
    """Remove results of a stage from the work store and return a line for each; artifacts stay.

    Args:
        layout: Layout of the project.
        stage: One of `STAGES`.
        names: Names of results; empty: all. A stage that may have fetched results then needs `fetched`.
        shard: Only results of this shard, e.g. `00003`.
        fetched: Allow to delete fetched results without naming them.

    Raises:
        ConfigurationError: no such stage or result, or the results have to be named.
        InfrastructureError: the stage is running.
    """
    if stage not in STAGES:
        raise ConfigurationError(f"no stage {stage}; expected one of {', '.join(STAGES)}")
    work = layout.work(stage)
    results = dict(_results(work)) if work.is_dir() else {}
    if unknown := sorted({*names} - results.keys()):
        raise ConfigurationError(
            f"{work} holds no result {', '.join(unknown)}; there are {', '.join(results) or 'none'}"
        )
    if stage in FETCHING and not names and not fetched:
        raise ConfigurationError(
            f"{stage} may hold fetched data, which would be fetched again; name the results to forget, or "
            f"--fetched for all: {', '.join(map(_name_and_size, results.values())) or 'there is nothing'}"
        )
    if not results:
        return [f"{work} holds no result of {stage}"]
    lines = []
    with one_writer(work, stage):
        for name in sorted(names or results):
            paths = [results[name]] if shard is None else list(_shard_results(results[name], shard))
            if shard is not None and not paths:
                raise ConfigurationError(
                    f"{results[name]} holds no shard {shard}; expected a name like 00003"
                )
            for path in paths:
                lines.append(f"forgot {_name_and_size(path)}")
                remove(path)
        remove(work / LAST)  # or a rerun would put it back
    return [*lines, f"next: dvc repro --force {stage}"]


def _results(work: Path) -> Iterator[tuple[str, Path]]:
    for folder in sorted(path for path in work.iterdir() if path.is_dir()):
        if folder.name == PIECES:
            yield from ((path.name, path) for path in sorted(folder.iterdir()) if path.is_dir())
        elif folder.name not in NO_RESULTS:
            yield folder.name, folder


def _shard_results(folder: Path, shard: str) -> Iterator[Path]:
    """Yield the finished results below a folder that hold a file of a shard."""
    for manifest in sorted(folder.rglob("manifest.json")):
        if any(path.name.split(".")[0] == shard for path in manifest.parent.iterdir()):
            yield manifest.parent


def _name_and_size(folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{folder.name} ({size / MEGABYTE:,.1f} MB)"
