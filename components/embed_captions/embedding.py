"""One piece of work: distinct texts embedded, written, and some of them encoded once more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from components.embed_captions.llms import Llm
from components.embed_captions.sources import TextFile
from components.faults import DataFault
from components.ml.llm import encode_tokens, tokenise
from components.ml.template import Tokens
from components.settings.embed_captions import EmbedCaptions
from components.storage.atomic import content_key, write_json
from components.storage.embeddings import write_embeddings
from components.storage.side_tables import text_key

ALONE = 1  # batch_tokens of the check: every text is a batch of its own, so nothing is padded


@dataclass(frozen=True)
class Embedder:
    """Embeds with one LLM; `progress` is told the number of texts of each finished batch."""

    llm: Llm
    params: EmbedCaptions
    seed: int
    progress: Callable[[int], None]

    def key(self, file: TextFile) -> str:
        """Return the name of a piece: a hash of all that decides it."""
        return content_key(
            [self.llm.about, file.content, self.params.batch_tokens, self.params.recheck_rows, self.seed]
        )

    def write(self, file: TextFile, folder: Path) -> None:
        """Write the embeddings of one file's lines, those of equal text sharing one, and the figures."""
        rows, texts = distinct([line.text for line in file.lines])
        encoder = self.llm.encoder
        tokens = tokenise(encoder, texts)
        vectors = encode_tokens(
            encoder, tokens, self.params.batch_tokens, self.params.precision, self.progress
        )
        table = _table(file, rows)
        write_embeddings(folder, file.name, self.llm.about, table, vectors)
        figures = {
            "of": file.title,
            "captions": len(table),
            "unique_captions": len(texts),
            "cut_captions": sum(row.is_cut for row in tokens),
            "tokens": sum(len(row.ids) for row in tokens),
            "dimension": encoder.dimension,
            "recheck_min_cosine": self._recheck(tokens, vectors.half().float()),
        }
        check_again(figures, self.params)
        write_json(folder / f"{file.name}.json", figures)

    def _recheck(self, rows: list[Tokens], vectors: Tensor) -> float | None:
        """Return the smallest cosine between stored vectors and those of their texts encoded one by one."""
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(rows), generator=generator)[: self.params.recheck_rows]
        if not len(chosen):
            return None
        again = encode_tokens(self.llm.encoder, [rows[row] for row in chosen], ALONE, self.params.precision)
        return round(float(torch.nn.functional.cosine_similarity(again, vectors[chosen]).min()), 6)


def check_again(figures: dict[str, Any], params: EmbedCaptions) -> None:
    """Compare a file's `recheck_min_cosine` with the limit, also where an earlier run embedded it.

    Raises:
        DataFault: it is below.
    """
    cosine = figures["recheck_min_cosine"]
    if cosine is not None and not cosine >= params.min_recheck_cosine:
        raise DataFault(
            f"{figures['of']}: a text encoded again alone has cosine {cosine:.6f} to its stored embedding; "
            f"embed_captions.min_recheck_cosine asks for {params.min_recheck_cosine:g}: batches change what "
            "the model says, try precision fp32"
        )


def _table(file: TextFile, rows: list[int]) -> pa.Table:
    names = [name for name in file.schema.names if name != "row"]
    columns = {name: [getattr(line, name) for line in file.lines] for name in names}
    return pa.table({**columns, "row": rows}, schema=file.schema)


def distinct(texts: list[str]) -> tuple[list[int], list[str]]:
    """Return for each text its row among the distinct ones, and those in order of first appearance.

    Example:
        >>> distinct(["a", "b", "a"])
        ([0, 1, 0], ['a', 'b'])
    """
    numbers: dict[str, int] = {}
    found: list[str] = []
    rows = []
    for text in texts:
        number = numbers.setdefault(text_key(text), len(numbers))
        if number == len(found):
            found.append(text)
        rows.append(number)
    return rows, found
