"""Training examples: images with captions in the columns of the mix.

Captions are stored as Arrow columns, as in tune_llm. As Python objects they would take several times the
bytes of their texts.
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
    """Rows that have an image, and a caption in a column of weight above 0.

    Attributes:
        pixels: The decoded images.
        image_size: Side of the vision tower's input, in pixels.
        image_rows: (N,) index in `pixels` of each example's image.
        columns: Of the mix, sorted.
        mix: Draws a caption for each example, as a line number of `captions`.
        captions: Keys and texts, ordered by example, column and number.

    Args:
        pixels: The decoded images of `shards`.
        shards: Audited rows, with the columns of `CAPTION_TEXTS`.
        weights: Of the columns of the mix.
        rows: Counts the rows that take part.
        image_size: Side of the vision tower's input, in pixels.

    Raises:
        ConfigurationError: the mix names a column that no row has.
        DataError: no row is left, or the images belong to other rows.
    """

    def __init__(
        self, pixels: Pixels, shards: list[KeptShard], weights: dict[str, float], rows: Rows, image_size: int
    ) -> None:
        _check_columns(shards, weights)
        _check_images(pixels, shards)
        self.columns = sorted(weights)
        lines, image_row, column = _read_captions(shards, self.columns)
        counts = np.zeros((len(pixels), len(self.columns)), np.int64)
        np.add.at(counts, (image_row, column), 1)
        is_drawn = np.array([weights[name] > 0 for name in self.columns])
        is_used: NDArray[np.bool_] = np.any(counts[:, is_drawn] > 0, axis=1)
        rows.accept(int(is_used.sum()))
        if without_caption := int((~is_used).sum()):
            rows.reject("no_caption", without_caption)
        for shard in shards:
            rows.reject("not_kept", shard.rejected)
        if not is_used.any():
            raise DataError("no training row is left; expected rows of split train that audit keeps")
        self.pixels, self.image_size = pixels, image_size
        self.image_rows = torch.from_numpy(np.flatnonzero(is_used))
        counts = counts[is_used]
        self.mix = CaptionMix(
            torch.from_numpy(counts), torch.tensor([weights[name] for name in self.columns])
        )
        self.captions = lines if is_used.all() else lines.filter(pa.array(is_used[image_row]))
        self._column_index = column[is_used[image_row]]  # (M,) index in `columns` of each caption's column
        group_sizes = counts[counts > 0]  # captions of an example in a column, in caption order
        self._group_size = np.repeat(group_sizes.astype(np.int32), group_sizes)  # (M,)
        self._group_index = np.arange(len(self._group_size)) - np.repeat(
            np.cumsum(group_sizes) - group_sizes, group_sizes
        )

    def __len__(self) -> int:
        return len(self.image_rows)

    def embedding_rows(self, embeddings: Embeddings) -> Tensor:
        """Return the row of each caption (M,) in the cached embeddings.

        Raises:
            DataError: a caption has none.
        """
        rows = np.empty(len(self.captions), np.int64)
        for number, column in enumerate(self.columns):
            in_column = self._column_index == number
            index = column_lines(embeddings.table, column)
            keys = self.captions["key"].filter(pa.array(in_column)).cast(pa.large_string())
            key_index = pc.fill_null(pc.index_in(keys, value_set=index.keys), -1).to_numpy()
            count = np.where(key_index < 0, 0, np.append(index.counts, 0)[key_index])
            expected = self._group_size[in_column]
            if (wrong := np.flatnonzero(count != expected)).size:
                raise DataError(
                    f"{count[wrong[0]]} embeddings for the {expected[wrong[0]]} captions {column} of "
                    f"{keys[wrong[0]]}; expected one each: run `dvc repro --force embed_captions`"
                )
            rows[in_column] = index.rows[index.first[key_index] + self._group_index[in_column]]
        return torch.from_numpy(rows)

    def digest(self) -> str:
        """Return one hash of all captions, their order and their rows."""
        digest, columns = sha256(), pa.array(self.columns, pa.large_string())
        for start in range(0, len(self.captions), DIGEST_LINES):
            part = self.captions.slice(start, DIGEST_LINES)
            key, text = (part[name].cast(pa.large_string()) for name in ("key", "text"))
            number = pa.array(self._group_index[start : start + DIGEST_LINES]).cast(pa.large_string())
            column = columns.take(pa.array(self._column_index[start : start + DIGEST_LINES]))
            # the zero byte separates two values, and with the empty value it also ends the text
            for lines in pc.binary_join_element_wise(key, column, number, text, NOTHING, ZERO_BYTE).chunks:
                _, offset_buffer, data = lines.buffers()
                offsets = np.frombuffer(offset_buffer, np.int64)[: len(lines) + 1]
                digest.update(memoryview(data)[offsets[0] : offsets[-1]])
        return digest.hexdigest()


def _read_captions(
    shards: list[KeptShard], columns: list[str]
) -> tuple[pa.Table, NDArray[np.int64], NDArray[np.int32]]:
    """Return the captions of some columns in order, and the image number (M,) and column number (M,) of each.

    Images are numbered as in `Pixels`: shard by shard, by key.
    """
    names = pa.array(columns, pa.string())
    tables, image_rows, column_numbers, image_count = [], [], [], 0
    for shard in shards:
        keys = shard.keys
        table = shard.table.filter(pc.is_in(shard.table["column"], value_set=names))
        image_row = pc.index_in(table["key"], value_set=keys).to_numpy()
        column = pc.index_in(table["column"], value_set=names).to_numpy()
        order = np.lexsort((table["number"].to_numpy(), column, image_row))
        tables.append(table.select(["key", "text"]).take(order))
        image_rows.append(image_count + image_row[order].astype(np.int64))
        column_numbers.append(column[order])
        image_count += len(keys)
    return pa.concat_tables(tables), np.concatenate(image_rows), np.concatenate(column_numbers)


def _check_images(pixels: Pixels, shards: list[KeptShard]) -> None:
    """Check that images and captions, which are numbered separately, have the same keys."""
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
        counts: (N, C) number of captions of each row in each column. Captions are numbered row by row, column
            by column.
        weights: (C,) of the columns; renormalised over the columns that a row has. Each row has a column of
            weight above 0.
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
        # the last edge is 1 except for rounding
        position = torch.rand(len(rows), 1, dtype=torch.double) * edges[:, -1:]
        column = torch.searchsorted(edges, position, right=True).clamp(max=edges.shape[1] - 1)[:, 0]
        count = self.counts[rows, column]
        number = (torch.rand(len(rows), dtype=torch.double) * count).long()
        return self.first[rows, column] + number
