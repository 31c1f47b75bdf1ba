"""Texts to embed: audited captions by shard and column, and prompts of zero-shot classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from components.errors import ConfigurationError, DataError
from components.running.rows import Rows
from components.settings.evaluate import ZeroShotTask
from components.storage.atomic import content_key
from components.storage.embeddings import EMBEDDED_CAPTIONS, EMBEDDED_PROMPTS, PROMPTS
from components.storage.manifest import Entry, read_manifest
from components.storage.shards import image_table, shards_of
from components.storage.side_tables import Caption, read_captions, read_keys, read_table


@dataclass(frozen=True)
class CaptionShard:
    """One shard's captions and kept keys on disk."""

    name: str
    captions_path: Path
    kept_path: Path


@dataclass(frozen=True)
class Prompt:
    """A class name in a template."""

    task: str
    label: str
    template: str

    @property
    def text(self) -> str:
        """What the LLM reads."""
        return self.template.replace("{label}", self.label)


@dataclass(frozen=True)
class TextFile:
    """What one file of embeddings is made of: the captions of a column in a shard, or all prompts.

    Attributes:
        folder: The column; empty for prompts.
        name: The shard, or `prompts`.
        schema: Of the table beside the embeddings.
        lines: In order.
    """

    folder: str
    name: str
    schema: pa.Schema
    lines: Sequence[Caption | Prompt]

    @property
    def title(self) -> str:
        """What a message calls it."""
        return f"{self.folder} {self.name}".strip()

    @cached_property  # each LLM asks
    def content(self) -> str:
        """A hash of the lines: they are embedded once, whatever else is added to their shard."""
        # vars, not asdict, which copies every string
        return content_key([self.folder, self.name, [vars(line) for line in self.lines]])


def caption_shards(recaption: Path, audit: Path) -> list[CaptionShard]:
    """List the shards of two artifacts, verified by their manifests.

    Raises:
        DataError: they have other shards, or a file is damaged.
    """
    kept = _by_name(read_manifest(audit, "kept/"))
    captions = _by_name(read_manifest(recaption, "captions/"))
    if set(kept) != set(captions):
        odd = sorted(set(kept) ^ set(captions))[0]
        raise DataError(
            f"{audit} kept keys of {len(kept)} shards, {recaption} has captions of {len(captions)} (first "
            f"odd one {odd}); expected the same shards: `dvc repro audit`"
        )
    return [
        CaptionShard(name, recaption / entry.uri, audit / kept[name].uri)
        for name, entry in sorted(captions.items())
    ]


def caption_files(shard: CaptionShard, rows: Rows) -> list[TextFile]:
    """Return the captions of a shard's kept rows, in every split, by column."""
    captions, kept = read_captions(shard.captions_path), read_keys(shard.kept_path)
    keys = {caption.key for caption in captions}
    rows.accept(len(keys & kept))
    rows.reject("not_kept_by_audit", len(keys - kept))
    found: dict[str, list[Caption]] = {}
    for caption in captions:
        if caption.key in kept:
            found.setdefault(caption.column, []).append(caption)
    return [TextFile(column, shard.name, EMBEDDED_CAPTIONS, lines) for column, lines in sorted(found.items())]


def prompts_file(prompts: list[Prompt]) -> TextFile:
    """Return what the file of all prompts is made of."""
    return TextFile("", PROMPTS, EMBEDDED_PROMPTS, prompts)


def zero_shot_prompts(tasks: list[ZeroShotTask], download: Path, shards: list[CaptionShard]) -> list[Prompt]:
    """Return the prompts of all tasks; a task's classes are the values its label has in the test split.

    Args:
        tasks: Of evaluate.
        download: The folder of the images' shards, beside which the labels lie.
        shards: Their captions: only shards with test rows are read.

    Raises:
        ConfigurationError: no test row has the label of a task.
    """
    if not tasks:
        return []
    found: dict[str, set[str]] = {}
    with_test_rows = {shard.name for shard in shards if _has_test_rows(shard.captions_path)}
    for shard in shards_of(download):
        for image in image_table(download, shard).to_pylist() if shard.name in with_test_rows else ():
            if image["split"] == "test":
                for label, values in image["labels"]:
                    found.setdefault(label, set()).update(values)
    for task in tasks:
        if not found.get(task.label):
            raise ConfigurationError(
                f"evaluate.zero_shot {task.name}: no test row has the label {task.label}; "
                f"labels there are {', '.join(sorted(found)) or 'none'}"
            )
    return [
        Prompt(task.name, value, template)
        for task in tasks
        for value in sorted(found[task.label])
        for template in task.templates
    ]


def _has_test_rows(captions: Path) -> bool:
    split = read_table(captions, pa.schema([("split", pa.string())])).column("split")
    return "test" in split.unique().to_pylist()


def _by_name(entries: list[Entry]) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries}
