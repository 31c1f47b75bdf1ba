"""Progress of long work: log lines with rate and ETA, and a file that the flow reads."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from components.running.signals import raise_if_stopped
from components.storage.atomic import read_json, write_json

SECONDS_BETWEEN_LINES = 2.0
WORKED = "worked"  # folder of the stage, emptied at its start: units of each finished work of this run
log = logging.getLogger("llm2clip")


class Progress:
    """Counts units of work.

    Args:
        work: The stage's folder in the work store, where `progress.json` is written.
        what: Name of the work, e.g. `train_clip llm2clip`.
        total: Number of units.
        unit: Name of a unit, e.g. `steps`.
        done: Units that an earlier run finished.
        is_told: Log and write files; of several processes with the same work, only one does.
    """

    def __init__(
        self, work: Path, what: str, total: int, unit: str, done: int = 0, *, is_told: bool = True
    ) -> None:
        self.work, self.what, self.total, self.unit = work, what, total, unit
        self.done = self._resumed = done
        self._start_seconds = time.monotonic()
        self._next_line_seconds = self._start_seconds  # the first unit is logged at once
        self._is_told = is_told
        if done and is_told:
            log.info("%s: resumed at %s %d of %d", what, unit, done, total)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count finished units; logs every few seconds and at the end. `note` ends the line (`loss 1.23`).

        Raises:
            Stopped: a stop signal came whose exception was lost.
        """
        raise_if_stopped()
        self.done += count
        now = time.monotonic()
        if not self._is_told or (now < self._next_line_seconds and self.done < self.total):
            return
        self._next_line_seconds = now + SECONDS_BETWEEN_LINES
        rate = (self.done - self._resumed) / max(now - self._start_seconds, 1e-9)
        left_seconds = (self.total - self.done) / rate if rate else 0.0
        log.info(
            "%s: %s %d of %d, %.1f a second, %d:%02d left%s",
            self.what,
            self.unit,
            self.done,
            self.total,
            rate,
            *divmod(round(left_seconds), 60),
            f", {note}" if note else "",
        )
        if self.done >= self.total:
            name = f"{self.what.replace(' ', '_')}.json"
            write_json(self.work / WORKED / name, {"what": self.what, "count": self.done - self._resumed})
        share = self.done / max(self.total, 1)
        write_json(
            self.work / "progress.json",
            {
                "what": self.what,
                "done": self.done,
                "total": self.total,
                "unit": self.unit,
                "share": share,
                "rate": rate,
                "seconds_left": left_seconds,
            },
        )


def worked(work: Path) -> dict[str, int]:
    """Return the units of each finished work that this run of a stage did, without those of earlier runs."""
    counts = [read_json(path) for path in sorted((work / WORKED).glob("*.json"))]
    return {entry["what"]: entry["count"] for entry in counts}
