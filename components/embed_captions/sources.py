"""What is embedded: the captions of each shard's kept rows, and the prompts of zero-shot classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.faults import ConfigurationFault, DataFault
from components.running.rows import Rows
from components.settings.evaluate import ZeroShotTask
from components.storage.manifest import Entry, read_manifest
from components.storage.shards import read_shard, shards_of
from components.storage.side_tables import Caption, read_captions, read_keys


@dataclass(frozen=True)
class CaptionShard:
    """One shard's captions and kept keys on disk."""

    name: str
    captions_path: Path
    kept_path: Path
    content: str  # name and hashes of both files


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


def caption_shards(recaption: Path, audit: Path) -> list[CaptionShard]:
    """List the shards of two artifacts, verified by their manifests.

    Raises:
        DataFault: they have other shards, or a file is damaged.
    """
    kept = _by_name(read_manifest(audit, "kept/"))
    captions = _by_name(read_manifest(recaption, "captions/"))
    if set(kept) != set(captions):
        odd = sorted(set(kept) ^ set(captions))[0]
        raise DataFault(
            f"{audit} kept keys of {len(kept)} shards, {recaption} has captions of {len(captions)} (first "
            f"odd one {odd}); expected the same shards: `dvc repro audit`"
        )
    return [
        CaptionShard(
            name,
            recaption / entry.uri,
            audit / "kept" / f"{name}.parquet",
            f"{name}-{entry.sha256}-{kept[name].sha256}",
        )
        for name, entry in sorted(captions.items())
    ]


def kept_captions(shard: CaptionShard, rows: Rows) -> list[Caption]:
    """Read all captions of a shard's kept rows, in every split."""
    captions, kept = read_captions(shard.captions_path), read_keys(shard.kept_path)
    keys = {caption.key for caption in captions}
    rows.accept(len(keys & kept))
    rows.reject("not_kept_by_audit", len(keys - kept))
    return [caption for caption in captions if caption.key in kept]


def zero_shot_prompts(tasks: list[ZeroShotTask], download: Path) -> list[Prompt]:
    """Return the prompts of all tasks; a task's classes are the values its label has in the test split.

    Raises:
        ConfigurationFault: no test row has the label of a task.
    """
    if not tasks:
        return []
    found: dict[str, set[str]] = {}
    for _, path, rows in shards_of(download):
        for pair in read_shard(path, rows):
            if pair.metadata["split"] == "test":
                for label, values in pair.metadata["labels"].items():
                    found.setdefault(label, set()).update(values)
    for task in tasks:
        if not found.get(task.label):
            raise ConfigurationFault(
                f"evaluate.zero_shot {task.name}: no test row has the label {task.label}; "
                f"labels there are {', '.join(sorted(found)) or 'none'}"
            )
    return [
        Prompt(task.name, value, template)
        for task in tasks
        for value in sorted(found[task.label])
        for template in task.templates
    ]


def _by_name(entries: list[Entry]) -> dict[str, Entry]:
    return {Path(entry.uri).stem: entry for entry in entries}
