"""Retry attempts: each a finished result that takes over what the one before it settled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from components.storage.atomic import remove
from components.storage.result_cache import get_or_build, is_intact

ASIDE = "aside"
Make = Callable[[Path, Path | None, int], None]
Look = Callable[[Path], None]


def _rely(folder: Path) -> None:
    """Look at a folder that needs no second look."""


class Attempts:
    """The rounds of one piece of work, of which the latest alone is kept.

    Args:
        store: Folder of all pieces of one kind.
        key: Hash of all that decides round 0 (`content_key`).
        look: Called with each folder before it is relied on; may remove it.
    """

    def __init__(self, store: Path, key: str, look: Look = _rely) -> None:
        self._store, self._key, self._look = store, key, look

    def latest(self) -> Path | None:
        """Return the latest intact round, whatever params ask for; all others are removed.

        What once came is not thrown away when fewer rounds are asked for: by now nobody may have it.
        """
        folders = sorted(self._store.glob(f"{self._key}.[0-9]*"), key=_number, reverse=True)
        for folder in folders:
            self._look(folder)
        found = next((folder for folder in folders if is_intact(folder)), None)
        for folder in folders:
            if folder != found:
                remove(folder)
        return found

    def take_over(self, key: str) -> None:
        """Have round 0 take what is good from the latest round of another key, if there is one.

        Args:
            key: Under which an earlier version of this program kept the same work.
        """
        found = Attempts(self._store, key, self._look).latest()
        if found and not self._aside.exists():
            found.replace(self._aside)

    def finish(
        self, latest: Path | None, rounds: int, is_lacking: Callable[[Path], bool], make: Make
    ) -> Path:
        """Return the round after which nothing is lacking, or the last one that params allow.

        Args:
            latest: As the method of this name gave it, or None to begin anew.
            rounds: At most so many after round 0.
            is_lacking: Says of a finished round whether another one may bring more.
            make: Fills an empty folder; it is handed the earlier round to take from, if there is one, and the
                number of its own.
        """
        finished = latest or self._first(make)
        remove(self._aside)
        while _number(finished) < rounds and is_lacking(finished):
            earlier = finished
            finished = self._made(make, earlier, _number(earlier) + 1)
            remove(earlier)
        return finished

    def _first(self, make: Make) -> Path:
        self._look(self._aside)
        return self._made(make, self._aside if is_intact(self._aside) else None, 0)

    def _made(self, make: Make, before: Path | None, number: int) -> Path:
        return get_or_build(self._store, f"{self._key}.{number}", lambda folder: make(folder, before, number))

    @property
    def _aside(self) -> Path:
        return self._store / f"{self._key}.{ASIDE}"


def mark_for_retry(finished: Path) -> None:
    """Have the next run begin anew with a round that is not good enough, and take from it what is good."""
    target = finished.with_name(f"{finished.stem}.{ASIDE}")
    remove(target)
    finished.replace(target)


def _number(folder: Path) -> int:
    return int(folder.suffix.removeprefix("."))
