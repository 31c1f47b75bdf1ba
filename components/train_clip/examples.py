"""Training examples: images with captions in the columns of the mix.

Captions are held as Arrow columns, as tune_llm holds its own: as Python objects they would take several times
the bytes of their texts.
"""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.errors import ConfigurationError, DataError
from components.running.rows import Rows
from components.storage.audited_rows import KeptShard
from components.storage.caption_index import column_lines
from components.storage.embeddings import Embeddings
from components.storage.pixels import Pixels

DIGEST_LINES = 1 << 14
NOTHING, ZERO_BYTE = pa.scalar("", pa.large_string()), pa.scalar("\0", pa.large_string())


class Examples:
    """Rows that have an image and a caption in a column that is drawn.

    Attributes:
        pixels: The decoded images.
        image_size: Pixels of a side that the vision tower takes.
        image_rows: (N,) which of `pixels` is the image of each example.
        columns: Of the mix, sorted.
        mix: Draws a caption, as a line of `captions`, for examples.
        captions: A line each with key and text, ordered by example, column and number.

    Args:
        pixels: The decoded images of `shards`.
        shards: Kept rows, with the columns of `CAPTION_TEXTS`.
        weights: Of the columns of the mix.
        rows: Counts which take part.
        image_size: Pixels of a side that the vision tower takes.

    Raises:
        ConfigurationError: the mix names a column that no row has.
        DataError: no row is left, or the images are of other rows.
    """

    def __init__(
        self, pixels: Pixels, shards: list[KeptShard], weights: dict[str, float], rows: Rows, image_size: int
    ) -> None:
        _check_columns(shards, weights)
        _check_images(pixels, shards)
        self.columns = sorted(weights)
        lines, row, column = _lines(shards, self.columns)
        counts = np.zeros((len(pixels), len(self.columns)), np.int64)
        np.add.at(counts, (row, column), 1)
        is_drawn = np.array([weights[name] > 0 for name in self.columns])
        takes_part: NDArray[np.bool_] = np.any(counts[:, is_drawn] > 0, axis=1)
        rows.accept(int(takes_part.sum()))
        if without := int((~takes_part).sum()):
            rows.reject("no_caption", without)
        for shard in shards:
            rows.reject("not_kept", shard.rejected)
        if not takes_part.any():
            raise DataError("no training row is left; expected rows of split train that audit keeps")
        self.pixels, self.image_size = pixels, image_size
        self.image_rows = torch.from_numpy(np.flatnonzero(takes_part))
        counts = counts[takes_part]
        self.mix = CaptionMix(
            torch.from_numpy(counts), torch.tensor([weights[name] for name in self.columns])
        )
        self.captions = lines if takes_part.all() else lines.filter(pa.array(takes_part[row]))
        self._column = column[takes_part[row]]  # (M,) of each caption, its place in `columns`
        of_group = counts[counts > 0]  # captions of an example in a column, in the order of the captions
        self._count = np.repeat(of_group.astype(np.int32), of_group)  # (M,)
        self._place = np.arange(len(self._count)) - np.repeat(np.cumsum(of_group) - of_group, of_group)

    def __len__(self) -> int:
        return len(self.image_rows)

    def embedding_rows(self, embeddings: Embeddings) -> Tensor:
        """Return, for each caption (M,), its row of the cached embeddings.

        Raises:
            DataError: a caption has none.
        """
        rows = np.empty(len(self.captions), np.int64)
        for number, column in enumerate(self.columns):
            here = self._column == number
            lines = column_lines(embeddings.table, column)
            keys = self.captions["key"].filter(pa.array(here)).cast(pa.large_string())
            key = pc.fill_null(pc.index_in(keys, value_set=lines.keys), -1).to_numpy()
            found = np.where(key < 0, 0, np.append(lines.counts, 0)[key])
            expected = self._count[here]
            if (odd := np.flatnonzero(found != expected)).size:
                raise DataError(
                    f"{found[odd[0]]} embeddings for the {expected[odd[0]]} captions {column} of "
                    f"{keys[odd[0]]}; expected one each: run `dvc repro --force embed_captions`"
                )
            rows[here] = lines.rows[lines.first[key] + self._place[here]]
        return torch.from_numpy(rows)

    def digest(self) -> str:
        """Return one hash for all captions, their order and their rows."""
        digest, columns = sha256(), pa.array(self.columns, pa.large_string())
        for start in range(0, len(self.captions), DIGEST_LINES):
            part = self.captions.slice(start, DIGEST_LINES)
            key, text = (part[name].cast(pa.large_string()) for name in ("key", "text"))
            place = pa.array(self._place[start : start + DIGEST_LINES]).cast(pa.large_string())
            column = columns.take(pa.array(self._column[start : start + DIGEST_LINES]))
            # the zero byte stands between two values, and so after the text as well
            for lines in pc.binary_join_element_wise(key, column, place, text, NOTHING, ZERO_BYTE).chunks:
                _, ends, data = lines.buffers()
                offsets = np.frombuffer(ends, np.int64)[: len(lines) + 1]
                digest.update(memoryview(data)[offsets[0] : offsets[-1]])
        return digest.hexdigest()


def _lines(
    shards: list[KeptShard], columns: list[str]
) -> tuple[pa.Table, NDArray[np.int64], NDArray[np.int32]]:
    """Return the captions of some columns in order, the image of each (M,), and its column (M,) as a number.

    Images are numbered as `Pixels` has them: shard by shard, by key.
    """
    names = pa.array(columns, pa.string())
    tables, rows, numbers, images = [], [], [], 0
    for shard in shards:
        keys = shard.keys
        table = shard.table.filter(pc.is_in(shard.table["column"], value_set=names))
        row = pc.index_in(table["key"], value_set=keys).to_numpy()
        column = pc.index_in(table["column"], value_set=names).to_numpy()
        order = np.lexsort((table["number"].to_numpy(), column, row))
        tables.append(table.select(["key", "text"]).take(order))
        rows.append(images + row[order].astype(np.int64))
        numbers.append(column[order])
        images += len(keys)
    return pa.concat_tables(tables), np.concatenate(rows), np.concatenate(numbers)


def _check_images(pixels: Pixels, shards: list[KeptShard]) -> None:
    """Make sure that image and captions of a row, which are numbered apart, have one key."""
    keys = pa.chunked_array([shard.keys for shard in shards], pa.string())
    if keys != pixels.keys():
        raise DataError(
            f"{len(pixels)} decoded images and {len(keys)} rows with captions; expected the same keys in the "
            "same order: please report this"
        )


def _check_columns(shards: list[KeptShard], weights: dict[str, float]) -> None:
    present = {name for shard in shards for name in pc.unique(shard.table["column"]).to_pylist()}
    if missing := sorted(set(weights) - present):
        raise ConfigurationError(
            f"train_clip.caption_mix names {', '.join(missing)}, which no training row has; "
            f"the columns are {', '.join(sorted(present)) or 'none'}: correct the mix or recaption.captioners"
        )


class CaptionMix:
    """Draws captions for rows.

    Args:
        counts: (N, C) captions of each row in each column; they are numbered row by row, column by column.
        weights: (C,) of the columns; renormalised over those a row has. Each row has one of weight above 0.
    """

    def __init__(self, counts: Tensor, weights: Tensor) -> None:
        self.counts = counts
        flat = counts.flatten()
        self.first = (flat.cumsum(0) - flat).view_as(counts)  # (N, C) number of the first caption
        shares = (counts > 0) * weights.double()
        self.edges = (shares / shares.sum(dim=1, keepdim=True)).cumsum(dim=1)  # (N, C)

    def draw(self, rows: Tensor) -> Tensor:
        """Return a caption number (B,) for each of the rows (B,), by torch's global generator."""
        edges = self.edges[rows]
        spot = (
            torch.rand(len(rows), 1, dtype=torch.double) * edges[:, -1:]
        )  # the last edge is 1 but for rounding
        column = torch.searchsorted(edges, spot, right=True).clamp(max=edges.shape[1] - 1)[:, 0]
        count = self.counts[rows, column]
        number = (torch.rand(len(rows), dtype=torch.double) * count).long()
        return self.first[rows, column] + number
