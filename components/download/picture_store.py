"""The store of fetched pictures: shards that are written once, each with its ledger (docs/identity.md).

A shard of an earlier version lies in a folder named by a hash and has no `settings.json`: its pictures are
copied into new shards where a row asks for them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.download.ledger import SUCCESS, LedgerEntry, read_ledger
from components.download.refusal import CONNECTION_REASONS, may_pass
from components.settings.download import Download
from components.storage.atomic import new_folder, read_json, remove
from components.storage.buckets.bucket import Bucket
from components.storage.bulk import forget_lost, keep_remote
from components.storage.computed import FETCHED
from components.storage.result_cache import is_intact
from components.storage.side_tables import read_table, write_table

SETTINGS, ASIDE = "settings.json", "aside-"
NAME = re.compile(r"\d{5,}")
PREPARED_BY = ("size", "jpeg_quality")  # of download.images: what decides a stored picture
FAILED_BY = {  # the setting that caused a failure: with another value the row is tried again
    "aspect": "images.max_aspect",
    "decoder_died": "images.decode_deadline_seconds",
    "opted_out": "fetch.user_agent",
    "port_not_allowed": "fetch.allowed_ports",
    "private_address": "fetch.allowed_private_hosts",
    "timeout": "fetch.deadline_seconds",
    "too_large": "fetch.max_bytes",
    "too_many_pixels": "images.max_pixels",
    "too_many_redirects": "fetch.max_redirects",
    "too_small": "images.min_side",
}
PLANNED = pa.schema([("origin", pa.string()), ("key", pa.string())])


@dataclass(frozen=True)
class Known:
    """What the store knows of one origin.

    Attributes:
        shard: Name of the shard's folder.
        line: Line of its ledger; -1 in a shard that is planned.
        key: Key of the picture in the shard.
        is_picture: Whether there is a picture, prepared with the current settings.
        is_settled: Whether there is a failure that is not tried again.
        is_ours: Whether a row of that key may use the picture where it lies.
        sha256: Of the fetched bytes.
        pin: The sha256 that was asked for.
    """

    shard: str
    line: int
    key: str
    is_picture: bool = False
    is_settled: bool = False
    is_ours: bool = True
    sha256: str | None = None
    pin: str | None = None

    @property
    def is_planned(self) -> bool:
        """Whether the shard has yet to be fetched."""
        return self.line < 0


class PictureStore:
    """The shards that were fetched, and those that a run has planned.

    Args:
        work: The stage's folder in the work store.
        params: Of download.
        root: The bucket that shards go to, if any.
    """

    def __init__(self, work: Path, params: Download, root: Bucket | None) -> None:
        self.folder, self._planned_folder = work / "shards", work / "planned"
        self._params, self._root = params, root

    def shards(self) -> list[Path]:
        """Return the folders of the intact shards, those of this version first; damaged ones are removed.

        A shard without a picture whose connections failed is planned again.
        """
        if not self.folder.is_dir():
            return []
        folders = sorted((path for path in self.folder.iterdir() if path.is_dir()), key=_order)
        intact, planned = [], self.planned()
        for folder in folders:
            forget_lost(folder, self._root)
            if not is_intact(folder):
                remove(folder)
            elif _is_ours(folder) and _came_without_network(folder):
                planned[folder.name] = [(one.origin, one.key) for one in read_ledger(ledger_of(folder))]
                self.plan(planned)
                remove(folder)
            else:
                intact.append(folder)
        return intact

    def names(self) -> set[str]:
        """Return the names of all folders of shards."""
        return {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()

    def known(self) -> Iterator[tuple[str, Known]]:
        """Yield every origin of the store's shards, and of planned ones, with what is known of it."""
        finished = set()
        for folder in self.shards():
            finished.add(folder.name)
            settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else None
            for line, entry in enumerate(read_ledger(ledger_of(folder))):
                if entry.origin:
                    yield entry.origin, self._known(folder, line, entry, settings)
        for name, lines in self.planned().items():
            if name not in finished:
                yield from ((origin, Known(name, -1, key)) for origin, key in lines)

    def put_away(self, name: str) -> Path:
        """Return the folder of a shard, uploaded to the bucket, if there is one."""
        if self._root:
            keep_remote(self.folder / name, self._root)
        return self.folder / name

    def planned(self) -> dict[str, list[tuple[str, str]]]:
        """Return origin and key of the rows of each planned shard, in the order of its pictures."""
        paths = sorted(self._planned_folder.glob("*.parquet"))
        tables = {path.stem: read_table(path, PLANNED) for path in paths}
        return {
            name: list(zip(table["origin"].to_pylist(), table["key"].to_pylist(), strict=True))
            for name, table in tables.items()
        }

    def plan(self, shards: Mapping[str, Sequence[tuple[str, str]]]) -> None:
        """Replace the planned shards: origin and key of the rows of each, by its name."""
        with new_folder(self._planned_folder) as part:
            for name, rows in shards.items():
                origins, keys = [origin for origin, _ in rows], [key for _, key in rows]
                write_table(part / f"{name}.parquet", pa.table([origins, keys], schema=PLANNED))

    def set_aside(self, names: Iterable[str]) -> None:
        """Have the next run make shards of this run again: what came is copied, what may pass is fetched."""
        planned = self.planned()
        for name in names:
            if name in planned:
                remove(self.folder / f"{ASIDE}{name}")
                (self.folder / name).replace(self.folder / f"{ASIDE}{name}")

    def settle(self) -> None:
        """End a run that went well: its shards are no longer plans and will not change."""
        self.plan({})
        for folder in self.folder.glob(f"{ASIDE}*"):
            remove(folder)

    def settings(self) -> dict[str, Any]:
        """Return what decides pictures and failures, as a shard stores it."""
        params = self._params
        return {
            "version": FETCHED["shard"],
            "images": params.images.model_dump(),
            "fetch": params.fetch.model_dump(),
        }

    def _known(self, folder: Path, line: int, entry: LedgerEntry, settings: dict[str, Any] | None) -> Known:
        is_success = entry.status == SUCCESS
        is_aside = folder.name.startswith(ASIDE)
        return Known(
            folder.name,
            line,
            entry.key,
            is_success and self._fits(entry, settings),
            not is_success
            and not (is_aside and may_pass(entry.reason))
            and self._is_settled(entry, settings),
            _is_ours(folder),
            entry.sha256,
            entry.pin,
        )

    def _fits(self, entry: LedgerEntry, settings: dict[str, Any] | None) -> bool:
        """Say whether a stored picture is what the current settings would make."""
        images = self._params.images
        if settings is not None:
            current = self.settings()
            return settings["version"] == current["version"] and all(
                settings["images"].get(name) == current["images"][name] for name in PREPARED_BY
            )
        sides = (entry.original_width or 0, entry.original_height or 0)
        share = min(1.0, images.size / max(1, *sides))
        return (entry.width, entry.height) in {
            tuple(max(1, round(side * share)) for side in order) for order in (sides, sides[::-1])
        }

    def _is_settled(self, entry: LedgerEntry, settings: dict[str, Any] | None) -> bool:
        """Say whether a failure stays one: no round is left, and its cause has not changed."""
        if may_pass(entry.reason) and entry.rounds < self._params.retry_rounds:
            return False
        cause = FAILED_BY.get(entry.reason)
        return settings is None or cause is None or _value(settings, cause) == _value(self.settings(), cause)


def ledger_of(folder: Path) -> Path:
    """Return the path of a stored shard's ledger."""
    return folder / f"{name_of(folder)}.parquet"


def name_of(folder: Path) -> str:
    """Return the name of a stored shard's files."""
    return folder.name if _is_ours(folder) else next(folder.glob("*_stats.json")).name[:-11]


def stats_of_shard(folder: Path) -> dict[str, Any]:
    """Return img2dataset's counts of a stored shard, as `stats_of` made them."""
    stats: dict[str, Any] = read_json(folder / f"{name_of(folder)}_stats.json")
    return stats


def free_names(taken: Collection[str]) -> Iterator[str]:
    """Yield the names of shards that are not taken, the smallest numbers first."""
    number = 0
    while True:
        if (name := f"{number:05d}") not in taken:
            yield name
        number += 1


def _is_ours(folder: Path) -> bool:
    """Say whether rows may use a shard where it lies; else its pictures are copied."""
    return bool(NAME.fullmatch(folder.name))


def _order(folder: Path) -> tuple[bool, int, str]:
    return not _is_ours(folder), len(folder.name), folder.name


def _came_without_network(folder: Path) -> bool:
    stats = stats_of_shard(folder)
    return stats["successes"] == 0 and bool(CONNECTION_REASONS & stats["status_dict"].keys())


def _value(settings: dict[str, Any], name: str) -> Any:  # noqa: ANN401 - plain values
    section, _, field = name.partition(".")
    return settings.get(section, {}).get(field)
