"""What a run cost: seconds, memory, bytes. Never part of an output, for it differs between equal runs."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from components.running.progress import worked
from components.running.spent import spent_figures
from components.storage.atomic import read_json, sha256_of, write_json
from components.storage.layout import MANIFEST, Layout

KIBIBYTE = 1024


class Costs:
    """Measures from its making to `write`."""

    def __init__(self) -> None:
        self._start_seconds = time.monotonic()

    def write(self, layout: Layout, stage: str) -> None:
        """Write `costs/<stage>.json`."""
        seconds = time.monotonic() - self._start_seconds
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        peak = max(own.ru_maxrss, children.ru_maxrss) * (KIBIBYTE if sys.platform == "linux" else 1)
        write_json(
            layout.costs(stage),
            {
                "seconds": round(seconds, 2),
                "cpu_seconds": round(own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, 2),
                "peak_memory_bytes": peak,
                "artifact_bytes": _bytes_below(layout.artifact(stage)),
                "rows_in_per_second": round(_rows_in(layout, stage) / max(seconds, 1e-9), 2),
                "worked": worked(layout.work(stage)),
                **spent_figures(layout.work(stage)),
                "manifest_sha256": manifest_sha256(layout, stage),
                "cores": os.cpu_count(),
                **_bits(),
                "machine": platform.machine(),
                "torch": version("torch"),
            },
        )


def manifest_sha256(layout: Layout, stage: str) -> str | None:
    """Return what tells a stage's output from another one, which DVC may put in its place; costs stay."""
    path = layout.artifact(stage) / MANIFEST
    return sha256_of(path) if path.is_file() else None


def _bits() -> dict[str, Any]:
    """Return what decides the last bits of a result besides torch's version; null without torch."""
    torch = sys.modules.get("torch")
    return {
        "threads": torch.get_num_threads() if torch else None,
        "instruction_set": torch.backends.cpu.get_cpu_capability() if torch else None,
    }


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _rows_in(layout: Layout, stage: str) -> int:
    path = layout.metrics(stage)
    return int(read_json(path).get("rows_in", 0)) if path.is_file() else 0
