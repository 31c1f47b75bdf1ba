"""The rounds of a shard: the latest finished one, and what a later one takes from it unasked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from components.download.ledger import SUCCESS, read_ledger, reasons_of
from components.download.refusal import CONNECTION_REASONS, may_pass
from components.download.spool import Spool
from components.storage.atomic import remove
from components.storage.bucket import Bucket
from components.storage.bulk import forget_lost
from components.storage.pieces import is_intact
from components.storage.shards import read_pairs, shards_of

if TYPE_CHECKING:
    from components.download.taking import Taken

ASIDE = "aside"


class Rounds:
    """The finished rounds of one shard, each a piece of its own.

    Args:
        store: Folder of all shards' pieces.
        key: Of the shard.
        root: Where its bytes go; None for this machine.
    """

    def __init__(self, store: Path, key: str, root: Bucket | None) -> None:
        self.store, self.key = store, key
        self._root = root

    def name(self, number: int) -> str:
        """Return the name of a round's piece: the first asking is round 0."""
        return f"{self.key}.{number}"

    @property
    def aside(self) -> Path:
        """Where a round waits that was not good enough."""
        return self.store / f"{self.key}.{ASIDE}"

    def latest(self) -> int | None:
        """Return the number of the latest intact round, whatever params ask for; all others are removed.

        What once came is not thrown away when fewer rounds are asked for: by now its url may be dead.
        """
        folders = sorted(self.store.glob(f"{self.key}.[0-9]*"), key=_number, reverse=True)
        for folder in folders:
            forget_lost(folder, self._root)
        found = next((folder for folder in folders if is_intact(folder)), None)
        for folder in folders:
            if folder != found:
                remove(folder)
        return _number(found) if found else None

    def before(self) -> Path:
        """Return the round that was set aside, there or not."""
        forget_lost(self.aside, self._root)
        return self.aside


def set_aside(finished: Path) -> None:
    """Have the next run ask again for the rows of a shard whose failure may pass, and take the others."""
    target = finished.with_name(f"{finished.stem}.{ASIDE}")
    remove(target)
    finished.replace(target)


def is_lacking(finished: Path, name: str) -> bool:
    """Say whether a row of a shard failed for a reason that may pass."""
    return any(may_pass(reason) for reason in reasons_of(finished, name))


def came_without_network(finished: Path, name: str) -> bool:
    """Say whether a shard has not one image and connections failed: it is worth asking again."""
    (shard,) = shards_of(finished)
    return shard.rows == 0 and bool(CONNECTION_REASONS & reasons_of(finished, name).keys())


def known_rows(finished: Path, work: Path, spool: Spool) -> dict[int, Taken]:
    """Return the rows of an earlier round whose fate is settled, by number; pictures go to the spool."""
    from components.download.taking import Taken

    if not is_intact(finished):
        return {}
    (shard,) = shards_of(finished)
    places = {pair.key: spool.put(pair.jpeg) for pair in read_pairs(finished, shard, work)}
    return {
        number: Taken(
            one.status,
            one.reason,
            one.sha256,
            one.original_bytes,
            one.final_url,
            places[one.key] if one.status == SUCCESS else None,
            one.width,
            one.height,
            one.original_width,
            one.original_height,
            json.loads(one.exif)["Orientation"] if one.exif else None,
        )
        for number, one in enumerate(read_ledger(finished / f"{shard.name}.parquet"))
        if not may_pass(one.reason)
    }


def _number(folder: Path) -> int:
    return int(folder.suffix.removeprefix("."))
