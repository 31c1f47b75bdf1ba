"""Retry attempts of a cached result: each attempt reuses what the previous one settled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from components.storage.atomic import remove
from components.storage.result_cache import get_or_build, is_intact

ASIDE = "aside"
Make = Callable[[Path, Path | None], None]


class Attempts:
    """The attempts (rounds) of one cached result; only the latest is kept.

    Args:
        store: Folder of all cached results of one kind.
        key: Hash of everything that decides round 0 (`content_key`).

    Attributes:
        store: Folder of all cached results of one kind.
        key: Of these attempts.
    """

    def __init__(self, store: Path, key: str) -> None:
        self.store, self.key = store, key

    def latest(self) -> Path | None:
        """Return the latest intact round and remove all others, whatever number of rounds params allow.

        Fetched data is kept when params allow fewer rounds: the source may be gone by now.
        """
        folders = sorted(self.store.glob(f"{self.key}.[0-9]*"), key=_number, reverse=True)
        latest = next((folder for folder in folders if is_intact(folder)), None)
        for folder in folders:
            if folder != latest:
                remove(folder)
        return latest

    def take_over(self, earlier: Attempts) -> None:
        """Let round 0 start from the latest round of other attempts, if there is one.

        Args:
            earlier: Where an earlier version of this program kept the same work.
        """
        latest = earlier.latest()
        if latest and not self._aside.exists():
            self.store.mkdir(parents=True, exist_ok=True)
            latest.replace(self._aside)

    def finish(
        self, latest: Path | None, rounds: int, is_lacking: Callable[[Path], bool], make: Make
    ) -> Path:
        """Return the first complete round, or the last round that params allow.

        Args:
            latest: The result of `latest`, or None to start again.
            rounds: Maximum number of rounds after round 0.
            is_lacking: Takes a finished round; True if another round may bring more.
            make: Fills an empty folder. It also gets the previous round, or None.
        """
        finished = latest or self._make_first(make)
        remove(self._aside)
        while _number(finished) < rounds and is_lacking(finished):
            previous = finished
            finished = self._make_round(make, previous, _number(previous) + 1)
            remove(previous)
        return finished

    def _make_first(self, make: Make) -> Path:
        return self._make_round(make, self._aside if is_intact(self._aside) else None, 0)

    def _make_round(self, make: Make, previous: Path | None, number: int) -> Path:
        return get_or_build(self.store, f"{self.key}.{number}", lambda folder: make(folder, previous))

    @property
    def _aside(self) -> Path:
        return self.store / f"{self.key}.{ASIDE}"


def mark_for_retry(finished: Path) -> None:
    """Mark a round as not good enough: the next run starts again at round 0 and reuses its good parts."""
    target = finished.with_name(f"{finished.stem}.{ASIDE}")
    remove(target)
    finished.replace(target)


def _number(folder: Path) -> int:
    return int(folder.suffix.removeprefix("."))
