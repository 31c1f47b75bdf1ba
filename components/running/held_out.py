"""Read a split to measure on: images, captions by task, labels; sorted by key, whatever the shard order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import torch
from torch import Tensor

from components.errors import ConfigurationError, DataError
from components.ml.vision.pixels import decode_image
from components.running.embedding_headers import check_header
from components.running.rows import Rows
from components.settings.embed_captions import EmbedCaptions
from components.settings.evaluate import RetrievalTask, ZeroShotTask
from components.settings.tune_llm import CaptionRetrieval
from components.storage.audited_rows import KeptShard, kept_shards
from components.storage.computed import code_of
from components.storage.embeddings import read_embeddings, read_prompts
from components.storage.layout import Layout
from components.storage.pixels import Pixels, decoded
from components.storage.shards import Pair, image_table, pairs_in_use
from components.storage.side_tables import Caption


@dataclass(frozen=True)
class HeldOut:
    """The audited rows of a split.

    Attributes:
        keys: Sorted; image i has the key `keys[i]`.
        captions: Captions by key.
        labels: Values by label name, by key.
        pixels: Decoded images, in the order of the shards.
        image_rows: (N,) index into `pixels` of the image of each key.
        shards: Shards of the rows.
        split: validation or test.
        work: Folder of decoded images and of shards being fetched.
    """

    keys: list[str]
    captions: dict[str, list[Caption]]
    labels: dict[str, dict[str, list[str]]]
    pixels: Pixels
    image_rows: Tensor
    shards: list[KeptShard]
    split: str
    work: Path


@dataclass(frozen=True)
class TaskCaptions:
    """The captions of one retrieval task and their images.

    Attributes:
        name: Name of the task.
        images: (n,) indices of the images that have a caption.
        captions: Ordered by image and number.
        owners: (m,) index 0..n-1 into `images` of each caption's image.
    """

    name: str
    images: Tensor
    captions: list[Caption]
    owners: Tensor


def read_held_out(
    layout: Layout, split: str, work: Path, image_size: int, rows: Rows, *, with_labels: bool
) -> HeldOut:
    """Read a split and decode its images.

    Args:
        layout: Layout of the project.
        split: validation or test.
        work: The stage's folder in the work store; decoded images are stored there.
        image_size: Pixels of a side.
        rows: Row counter to update.
        with_labels: Read labels too.

    Raises:
        DataError: the split is empty, or a file is missing or damaged.
    """
    shards = [shard for shard in kept_shards(layout, split) if shard.table.num_rows or shard.rejected]
    captions = {key: row_captions for shard in shards for key, row_captions in shard.captions().items()}
    rows.accept(len(captions))
    rows.reject("not_kept", sum(shard.rejected for shard in shards))
    if not captions:
        raise DataError(
            f"no {split} row is left; expected rows of split {split} that pass audit: see download.sources"
        )
    code = code_of(work, work.name, "pixels")
    pixels = decoded(layout.artifact("download"), work, shards, image_size, decode_image, code)
    keys = sorted(captions)
    pixel_rows = {key: row for row, key in enumerate(pixels.keys().to_pylist())}
    image_rows = torch.tensor([pixel_rows[key] for key in keys])
    held_out = HeldOut(keys, captions, {}, pixels, image_rows, shards, split, work)
    if with_labels:
        download = layout.artifact("download")
        labels = {
            image["key"]: dict(image["labels"])
            for shard in shards
            for image in image_table(download, shard.entry).to_pylist()
            if image["key"] in captions
        }
        held_out = replace(held_out, labels=labels)
    return held_out


def read_jpegs(layout: Layout, held_out: HeldOut, keys: set[str]) -> dict[str, bytes]:
    """Return the files of images by key."""
    return {pair.key: pair.jpeg for pair in _pairs(layout, held_out, keys)}


def task_captions(held_out: HeldOut, task: RetrievalTask, section: str) -> TaskCaptions:
    """Return the captions of a task, any number for each image; images without one are left out.

    Args:
        held_out: The split.
        task: From params.
        section: Params section of the task, for the message.

    Raises:
        ConfigurationError: no row has a caption of that column and language.
    """
    images: list[int] = []
    captions: list[Caption] = []
    owners: list[int] = []
    for image, key in enumerate(held_out.keys):
        image_captions = [
            caption
            for caption in _sorted(held_out.captions[key])
            if (caption.column, caption.language) == (task.column, task.language)
        ]
        if image_captions:
            owners += [len(images)] * len(image_captions)
            images.append(image)
            captions += image_captions
    if not captions:
        raise ConfigurationError(
            f"{section} {task.name} reads column {task.column} in {task.language}, and no "
            f"{held_out.split} row has it; there are {_columns(held_out)}: fix params"
        )
    return TaskCaptions(task.name, torch.tensor(images), captions, torch.tensor(owners))


def caption_pairs(held_out: HeldOut, task: CaptionRetrieval) -> tuple[list[Caption], list[Caption]]:
    """Return two captions of each row that has both: the first of each column, or the first two of one.

    Raises:
        ConfigurationError: no test row has both.
    """
    second_number = 1 if task.first == task.second else 0
    firsts, seconds = [], []
    for key in held_out.keys:
        captions = {(caption.column, caption.number): caption for caption in held_out.captions[key]}
        first, second = captions.get((task.first, 0)), captions.get((task.second, second_number))
        if first and second:
            firsts.append(first)
            seconds.append(second)
    if not firsts:
        raise ConfigurationError(
            f"evaluate.caption_retrieval {task.name} reads {task.first} and {task.second}, and no test row "
            f"has both; there are {_columns(held_out)}: fix params"
        )
    return firsts, seconds


def label_truth(held_out: HeldOut, label: str) -> tuple[list[str], Tensor, Tensor]:
    """Return the classes of a label, the indices (n,) of images that have it, and the truth (n, classes).

    Raises:
        ConfigurationError: no test row has the label.
    """
    values = [held_out.labels[key].get(label, []) for key in held_out.keys]
    classes = sorted({value for row in values for value in row})
    if not classes:
        names = sorted({name for row in held_out.labels.values() for name in row})
        raise ConfigurationError(
            f"evaluate.zero_shot reads label {label}, which no test row has; there are "
            f"{', '.join(names) or 'none'}: fix params"
        )
    images = [image for image, row in enumerate(values) if row]
    truth = torch.tensor([[name in values[image] for name in classes] for image in images])
    return classes, torch.tensor(images), truth


def _pairs(layout: Layout, held_out: HeldOut, keys: set[str]) -> list[Pair]:
    selected = []
    for shard in held_out.shards:
        if keys & set(shard.keys.to_pylist()):
            pairs = pairs_in_use(layout.artifact("download"), shard.entry, held_out.work)
            selected += [pair for pair in pairs if pair.key in keys]
    return selected


def _sorted(captions: list[Caption]) -> list[Caption]:
    return sorted(captions, key=lambda caption: (caption.column, caption.number))


def _columns(held_out: HeldOut) -> str:
    columns: dict[Any, None] = {}
    for key in held_out.keys:
        for caption in held_out.captions[key]:
            columns[caption.column, caption.language] = None
    return ", ".join(f"{column} ({language})" for column, language in sorted(columns))


_FIX = "run `dvc repro --force embed_captions`"


class HeldOutVectors:
    """Embeddings of a split's captions and of prompts by one encoder; each text must have one.

    Args:
        layout: Layout of the project.
        name: Name of the encoder.
        params: Section embed_captions, which must have made the embeddings.
        columns: Columns of the captions.
        work: The stage's folder in the work store.
        split: validation or test.
        with_prompts: Read embeddings of zero-shot prompts too.

    Raises:
        DataError: embeddings are missing or damaged, or other params made them.
    """

    def __init__(
        self,
        layout: Layout,
        name: str,
        params: EmbedCaptions,
        columns: set[str],
        work: Path,
        split: str,
        with_prompts: bool,
    ) -> None:
        self.folder = folder = layout.artifact("embed_captions") / name
        captions = read_embeddings(folder, columns, work)
        check_header(layout, name, params, captions)
        self._vectors = captions.vectors
        names = ("key", "column", "number", "row")
        split_rows = captions.table.filter(pc.equal(captions.table["split"], split))
        values = [split_rows[name].to_pylist() for name in names]
        self._rows = {(key, column, number): row for key, column, number, row in zip(*values, strict=True)}
        self._prompts: dict[tuple[str, str, str], int] = {}
        if with_prompts:
            prompts = read_prompts(folder, work)
            check_header(layout, name, params, prompts)
            values = [prompts.table[name].to_pylist() for name in ("task", "label", "template", "row")]
            self._prompts = {(task, label, form): row for task, label, form, row in zip(*values, strict=True)}
            self._prompt_vectors = prompts.vectors

    def of_captions(self, captions: list[Caption]) -> Tensor:
        """Return (m, d), un-normalised.

        Raises:
            DataError: a caption has no embedding.
        """
        rows = [self._rows.get((caption.key, caption.column, caption.number)) for caption in captions]
        if None in rows:
            caption = captions[rows.index(None)]
            raise DataError(
                f"{self.folder} has no embedding of {rows.count(None)} captions, first {caption.column} "
                f"{caption.number} of {caption.key}; expected one of each: {_FIX}"
            )
        return self._vectors[torch.tensor(rows)].float()

    def of_prompts(self, task: ZeroShotTask, classes: list[str]) -> Tensor:
        """Return (classes * templates, d), un-normalised.

        Raises:
            DataError: a prompt has no embedding.
        """
        prompts = [(task.name, label, form) for label in classes for form in task.templates]
        rows = [self._prompts.get(prompt) for prompt in prompts]
        if None in rows:
            raise DataError(
                f"{self.folder} has no embedding of prompt {prompts[rows.index(None)]}; expected one of "
                f"each: {_FIX}"
            )
        return self._prompt_vectors[torch.tensor(rows)].float()
