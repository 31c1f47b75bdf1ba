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
        """The prompt as the LLM reads it."""
        return self.template.replace("{label}", self.label)


@dataclass(frozen=True)
class TextFile:
    """Texts of one file of embeddings: the captions of a column in a shard, or all prompts.

    Attributes:
        folder: The column; empty for prompts.
        name: The shard, or `prompts`.
        schema: Of the table beside the embeddings.
        lines: Captions or prompts, in order.
    """

    folder: str
    name: str
    schema: pa.Schema
    lines: Sequence[Caption | Prompt]

    @property
    def title(self) -> str:
        """Name of the file in messages."""
        return f"{self.folder} {self.name}".strip()

    @cached_property  # read once for each encoder
    def content(self) -> str:
        """Hash of the lines; they are embedded once, whatever else is added to their shard."""
        # vars, not asdict, which copies every string
        return content_key([self.folder, self.name, [vars(line) for line in self.lines]])


def caption_shards(recaption: Path, audit: Path) -> list[CaptionShard]:
    """List the shards of recaption and audit, verified by their manifests.

    Raises:
        DataError: the two have different shards, or a file is damaged.
    """
    audited = _by_name(read_manifest(audit, "kept/"))
    captions = _by_name(read_manifest(recaption, "captions/"))
    if set(audited) != set(captions):
        difference = sorted(set(audited) ^ set(captions))[0]
        raise DataError(
            f"{audit} has keys of {len(audited)} shards, {recaption} has captions of {len(captions)} (first "
            f"difference {difference}); expected the same shards: run `dvc repro audit`"
        )
    return [
        CaptionShard(name, recaption / entry.uri, audit / audited[name].uri)
        for name, entry in sorted(captions.items())
    ]


def caption_files(shard: CaptionShard, rows: Rows) -> list[TextFile]:
    """Return the captions of a shard's audited rows, in every split, one file a column."""
    captions, audited_keys = read_captions(shard.captions_path), read_keys(shard.kept_path)
    keys = {caption.key for caption in captions}
    rows.accept(len(keys & audited_keys))
    rows.reject("not_kept_by_audit", len(keys - audited_keys))
    lines_by_column: dict[str, list[Caption]] = {}
    for caption in captions:
        if caption.key in audited_keys:
            lines_by_column.setdefault(caption.column, []).append(caption)
    return [
        TextFile(column, shard.name, EMBEDDED_CAPTIONS, lines)
        for column, lines in sorted(lines_by_column.items())
    ]


def prompts_file(prompts: list[Prompt]) -> TextFile:
    """Return the file of all prompts."""
    return TextFile("", PROMPTS, EMBEDDED_PROMPTS, prompts)


def zero_shot_prompts(tasks: list[ZeroShotTask], download: Path, shards: list[CaptionShard]) -> list[Prompt]:
    """Return the prompts of all tasks; a task's classes are the values its label has in the test split.

    Args:
        tasks: Of evaluate.
        download: Folder of the image shards; the labels are beside them.
        shards: Their captions; only shards with test rows are read.

    Raises:
        ConfigurationError: no test row has the label of a task.
    """
    if not tasks:
        return []
    values_by_label: dict[str, set[str]] = {}
    with_test_rows = {shard.name for shard in shards if _has_test_rows(shard.captions_path)}
    for shard in shards_of(download):
        for image in image_table(download, shard).to_pylist() if shard.name in with_test_rows else ():
            if image["split"] == "test":
                for label, values in image["labels"]:
                    values_by_label.setdefault(label, set()).update(values)
    for task in tasks:
        if not values_by_label.get(task.label):
            raise ConfigurationError(
                f"evaluate.zero_shot {task.name}: no test row has the label {task.label}; "
                f"its labels are {', '.join(sorted(values_by_label)) or 'none'}"
            )
    return [
        Prompt(task.name, value, template)
        for task in tasks
        for value in sorted(values_by_label[task.label])
        for template in task.templates
    ]


def _has_test_rows(captions: Path) -> bool:
    split = read_table(captions, pa.schema([("split", pa.string())])).column("split")
    return "test" in split.unique().to_pylist()


def _by_name(entries: list[Entry]) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries}
