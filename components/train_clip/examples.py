"""The training rows: images with their captions in the columns of the caption mix."""

from __future__ import annotations

from hashlib import sha256

import torch
from torch import Tensor

from components.faults import ConfigurationFault, DataFault
from components.running.rows import Rows
from components.storage.embeddings import Embeddings
from components.storage.kept import KeptShard
from components.storage.pixels import Pixels
from components.train_clip.mix import CaptionMix


class Examples:
    """Rows that have an image and a caption in a column that is drawn.

    Attributes:
        pixels: The decoded images.
        image_rows: (N,) which of `pixels` is the image of each example.
        mix: Draws a caption, as an index of `captions`, for examples.
        captions: (key, column, number, text), ordered by example, column of the mix, and number.
    """

    def __init__(
        self, pixels: Pixels, shards: list[KeptShard], weights: dict[str, float], rows: Rows
    ) -> None:
        _check_columns(shards, weights)
        texts = _texts_by_key(shards, set(weights))
        counts: list[list[int]] = []
        image_rows: list[int] = []
        self.columns = sorted(weights)
        self.captions: list[tuple[str, str, int, str]] = []
        for row, key in enumerate(pixels.keys):
            of_row = texts[key]
            if not any(of_row.get(column) for column in self.columns if weights[column]):
                rows.reject("no_caption")
                continue
            rows.accept()
            image_rows.append(row)
            counts.append([len(of_row.get(column, [])) for column in self.columns])
            for column in self.columns:
                self.captions += [(key, column, n, text) for n, text in enumerate(of_row.get(column, []))]
        for shard in shards:
            rows.reject("not_kept", shard.rejected)
        if not image_rows:
            raise DataFault("no training row is left; expected rows of split train that audit keeps")
        self.pixels = pixels
        self.image_rows = torch.tensor(image_rows)
        self.mix = CaptionMix(torch.tensor(counts), torch.tensor([weights[name] for name in self.columns]))

    def __len__(self) -> int:
        return len(self.image_rows)

    def texts(self) -> tuple[list[str], Tensor]:
        """Return the distinct texts and, for each caption (M,), which of them it is."""
        numbers: dict[str, int] = {}
        rows = [numbers.setdefault(text, len(numbers)) for _, _, _, text in self.captions]
        return list(numbers), torch.tensor(rows)

    def embedding_rows(self, embeddings: Embeddings) -> Tensor:
        """Return, for each caption (M,), its row of the cached embeddings.

        Raises:
            DataFault: a caption has none.
        """
        keys = list(dict.fromkeys(key for key, _, _, _ in self.captions))
        found = {
            column: dict(zip(keys, embeddings.rows(column, keys), strict=True)) for column in self.columns
        }
        expected = self._counts()
        for (key, column), count in expected.items():
            if len(found[column][key]) != count:
                raise DataFault(
                    f"{len(found[column][key])} embeddings for the {count} captions {column} of {key}; "
                    "expected one each: run `dvc repro --force embed_captions`"
                )
        return torch.tensor([found[column][key][number] for key, column, number, _ in self.captions])

    def digest(self) -> str:
        """Return one hash for all captions, their order and their rows."""
        digest = sha256()
        for key, column, number, text in self.captions:
            digest.update(f"{key}\0{column}\0{number}\0{text}\0".encode())
        return digest.hexdigest()

    def _counts(self) -> dict[tuple[str, str], int]:
        counts: dict[tuple[str, str], int] = {}
        for key, column, _, _ in self.captions:
            counts[key, column] = counts.get((key, column), 0) + 1
        return counts


def _texts_by_key(shards: list[KeptShard], columns: set[str]) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = {}
    for shard in shards:
        for key, captions in shard.captions.items():
            of_key = found.setdefault(key, {})
            for caption in sorted(captions, key=lambda caption: caption.number):
                if caption.column in columns:
                    of_key.setdefault(caption.column, []).append(caption.text)
    return found


def _check_columns(shards: list[KeptShard], weights: dict[str, float]) -> None:
    present = {
        caption.column for shard in shards for captions in shard.captions.values() for caption in captions
    }
    if missing := sorted(set(weights) - present):
        raise ConfigurationFault(
            f"train_clip.caption_mix names {', '.join(missing)}, which no training row has; "
            f"the columns are {', '.join(sorted(present)) or 'none'}: correct the mix or recaption.captioners"
        )
