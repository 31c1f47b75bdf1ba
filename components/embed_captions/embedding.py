"""One piece of work: the distinct texts of a shard embedded, written, and some of them encoded once more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from components.embed_captions.llms import Llm
from components.embed_captions.sources import Prompt
from components.faults import DataFault
from components.ml.llm import encode_tokens, tokenise
from components.ml.template import Tokens
from components.settings.embed_captions import EmbedCaptions
from components.storage.atomic import content_key, write_json
from components.storage.embeddings import EMBEDDED_CAPTIONS, EMBEDDED_PROMPTS, write_embeddings
from components.storage.side_tables import Caption, text_key

ALONE = 1  # batch_tokens of the check: every text is a batch of its own, so nothing is padded


@dataclass(frozen=True)
class Embedder:
    """Embeds with one LLM; `progress` is told the number of texts of each finished batch."""

    llm: Llm
    params: EmbedCaptions
    seed: int
    progress: Callable[[int], None]

    def key(self, content: str) -> str:
        """Return the name of a piece: a hash of all that decides it."""
        return content_key(
            [self.llm.about, content, self.params.batch_tokens, self.params.recheck_rows, self.seed]
        )

    def write_captions(self, folder: Path, shard: str, captions: list[Caption]) -> None:
        """Write one shard's embeddings, captions of equal text sharing one."""
        rows, texts = distinct([caption.text for caption in captions])
        self._write(folder, shard, _table(captions, rows, EMBEDDED_CAPTIONS), texts)

    def write_prompts(self, folder: Path, shard: str, prompts: list[Prompt]) -> None:
        """Write the embeddings of zero-shot prompts."""
        rows, texts = distinct([prompt.text for prompt in prompts])
        self._write(folder, shard, _table(prompts, rows, EMBEDDED_PROMPTS), texts)

    def _write(self, folder: Path, shard: str, table: pa.Table, texts: list[str]) -> None:
        encoder = self.llm.encoder
        tokens = tokenise(encoder, texts)
        vectors = encode_tokens(
            encoder, tokens, self.params.batch_tokens, self.params.precision, self.progress
        )
        write_embeddings(folder, shard, self.llm.about, table, vectors)
        figures = {
            "captions": len(table),
            "unique_captions": len(texts),
            "cut_captions": sum(row.is_cut for row in tokens),
            "tokens": sum(len(row.ids) for row in tokens),
            "dimension": encoder.dimension,
            "recheck_min_cosine": self._recheck(tokens, vectors.half().float()),
        }
        check_again(shard, figures, self.params)
        write_json(folder / f"{shard}.json", figures)

    def _recheck(self, rows: list[Tokens], vectors: Tensor) -> float | None:
        """Return the smallest cosine between stored vectors and those of their texts encoded one by one."""
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(rows), generator=generator)[: self.params.recheck_rows]
        if not len(chosen):
            return None
        again = encode_tokens(self.llm.encoder, [rows[row] for row in chosen], ALONE, self.params.precision)
        return round(float(torch.nn.functional.cosine_similarity(again, vectors[chosen]).min()), 6)


def check_again(shard: str, figures: dict[str, Any], params: EmbedCaptions) -> None:
    """Compare a shard's `recheck_min_cosine` with the limit, also where an earlier run embedded it.

    Raises:
        DataFault: it is below.
    """
    cosine = figures["recheck_min_cosine"]
    if cosine is not None and not cosine >= params.min_recheck_cosine:
        raise DataFault(
            f"shard {shard}: a caption encoded again alone has cosine {cosine:.6f} to its stored embedding; "
            f"embed_captions.min_recheck_cosine asks for {params.min_recheck_cosine:g}: batches change what "
            "the model says, try precision fp32"
        )


def _table(lines: Sequence[Caption | Prompt], rows: list[int], schema: pa.Schema) -> pa.Table:
    columns = {name: [getattr(line, name) for line in lines] for name in schema.names if name != "row"}
    return pa.table({**columns, "row": rows}, schema=schema)


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
