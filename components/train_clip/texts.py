"""Text side of training: cached embeddings or caption texts."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from components.ml.losses.contrastive import NegativeMask
from components.running.embedding_headers import check_header
from components.settings.embed_captions import EmbedCaptions
from components.storage.atomic import content_key
from components.storage.embeddings import read_embeddings
from components.storage.layout import Layout
from components.storage.mapped_rows import MappedRows
from components.train_clip.examples import Examples


@dataclass(frozen=True)
class CachedTexts:
    """Embeddings of the captions by one LLM.

    Attributes:
        vectors: (M, d) fp16, un-normalised; read from the disk on access.
        rows: (captions,) row in `vectors` of each caption.
        about: Hash of what made the embeddings; with the captions it decides them.
    """

    vectors: MappedRows
    rows: Tensor
    about: str

    def __getitem__(self, captions: Tensor) -> Tensor:
        """Return the embeddings (n, d) of caption numbers (n,)."""
        return self.vectors[self.rows[captions]]


@dataclass(frozen=True)
class FalseNegativeFilter:
    """Finds false negatives: captions whose embeddings have a cosine of at least `cosine`."""

    texts: CachedTexts
    cosine: float

    def near(self, captions: Tensor, device: torch.device) -> NegativeMask:
        """Mask the false negatives of a batch of caption numbers (n,)."""
        vectors = self.texts[captions].to(device).float()
        unit = torch.nn.functional.normalize(vectors, dim=1)
        return NegativeMask(guides=unit, guide_cosine=self.cosine)


@dataclass(frozen=True)
class PlainTexts:
    """Texts of the captions, by caption number."""

    captions: pa.ChunkedArray

    def __getitem__(self, captions: Tensor) -> list[str]:
        """Return the texts of caption numbers (n,)."""
        # taking them all at once would visit every chunk, as of pyarrow 26
        return [self.captions[number].as_py() for number in captions.tolist()]


def cached_texts(layout: Layout, name: str, examples: Examples, params: EmbedCaptions) -> CachedTexts:
    """Return the captions' embeddings by one encoder of embed_captions.

    Raises:
        DataError: the embeddings are missing or damaged, a caption has none, or other params made them.
    """
    embeddings = read_embeddings(
        layout.artifact("embed_captions") / name, examples.columns, layout.work("train_clip")
    )
    check_header(layout, name, params, embeddings)
    rows = examples.embedding_rows(embeddings)
    return CachedTexts(embeddings.vectors, rows, content_key(embeddings.about))
