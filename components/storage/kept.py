"""What the audit lets pass: the verdict, and the captions of the rows it kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from components.faults import GateFault
from components.storage.atomic import read_json
from components.storage.layout import Layout
from components.storage.manifest import Entry, read_manifest
from components.storage.side_tables import Caption, read_captions, read_keys


@dataclass(frozen=True)
class KeptShard:
    """The rows of one split of one shard that the audit kept."""

    name: str  # 00000
    entry: Entry  # of the tar, in the manifest of `artifacts/download`
    captions: dict[str, list[Caption]]  # by key, keys sorted
    rejected: int  # rows of the split that the audit took out


def require_verdict(layout: Layout) -> None:
    """Stop unless the audit passed.

    Raises:
        GateFault: it did not.
    """
    read_manifest(layout.artifact("audit"), "verdict.json")
    path = layout.artifact("audit") / "verdict.json"
    if read_json(path).get("passed") is not True:
        raise GateFault(
            f"{path} says that the audit did not pass, a gate failed; see report.html there, then mend "
            "the data or audit's limits in params"
        )


def kept_shards(layout: Layout, split: str) -> Iterator[KeptShard]:
    """Read each image shard's kept rows of a split.

    Raises:
        DataFault: a file is missing or damaged.
    """
    shards = [entry for entry in read_manifest(layout.artifact("download"), "shards/") if entry.is_shard]
    read_manifest(layout.artifact("recaption"), "captions/")
    read_manifest(layout.artifact("audit"), "kept/")
    for entry in shards:
        name = entry.name
        kept = read_keys(layout.artifact("audit") / "kept" / f"{name}.parquet")
        captions: dict[str, list[Caption]] = {}
        for caption in read_captions(layout.artifact("recaption") / "captions" / f"{name}.parquet"):
            if caption.split == split:
                captions.setdefault(caption.key, []).append(caption)
        passed = {key: captions[key] for key in sorted(captions) if key in kept}
        yield KeptShard(name, entry, passed, len(captions) - len(passed))
