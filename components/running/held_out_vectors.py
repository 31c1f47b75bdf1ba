"""Cached embeddings of the captions that arms are measured by."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
import torch
from torch import Tensor

from components.errors import DataError
from components.running.embedding_headers import check_header
from components.settings.embed_captions import EmbedCaptions
from components.settings.evaluate import ZeroShotTask
from components.storage.embeddings import read_embeddings, read_prompts
from components.storage.layout import Layout
from components.storage.side_tables import Caption

_MEND = "run `dvc repro --force embed_captions`"


class HeldOutVectors:
    """Embeddings of a split's captions and of prompts by one encoder; a text without one is an error.

    Args:
        layout: Where the artifacts are.
        name: Of the encoder.
        params: What should have made them.
        columns: Of the captions.
        work: The stage's folder in the work store.
        split: validation or test.
        with_prompts: Read those of zero-shot prompts too.

    Raises:
        DataError: they are missing or damaged, or other params made them.
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
        here = captions.table.filter(pc.equal(captions.table["split"], split))
        lines = [here[name].to_pylist() for name in names]
        self._rows = {(key, column, number): row for key, column, number, row in zip(*lines, strict=True)}
        self._prompts: dict[tuple[str, str, str], int] = {}
        if with_prompts:
            prompts = read_prompts(folder, work)
            check_header(layout, name, params, prompts)
            lines = [prompts.table[name].to_pylist() for name in ("task", "label", "template", "row")]
            self._prompts = {(task, label, form): row for task, label, form, row in zip(*lines, strict=True)}
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
                f"{caption.number} of {caption.key}; expected one of each: {_MEND}"
            )
        return self._vectors[torch.tensor(rows)].float()

    def of_prompts(self, task: ZeroShotTask, classes: list[str]) -> Tensor:
        """Return (classes * templates, d), un-normalised.

        Raises:
            DataError: a prompt has no embedding.
        """
        wanted = [(task.name, label, form) for label in classes for form in task.templates]
        rows = [self._prompts.get(prompt) for prompt in wanted]
        if None in rows:
            raise DataError(f"{self.folder} has no embedding of prompt {wanted[rows.index(None)]}: {_MEND}")
        return self._prompt_vectors[torch.tensor(rows)].float()
