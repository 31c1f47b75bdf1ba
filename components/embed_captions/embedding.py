"""Embed the distinct texts of one file, write the vectors, and recheck some of them."""

from __future__ import annotations

import logging
import time
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from components.embed_captions.encoder import Encoder
from components.embed_captions.sources import TextFile
from components.errors import ConfigurationError, DataError
from components.running.costs import Spent, keep_spent, load_spent, together
from components.running.embedding_headers import CODE
from components.settings.embed_captions import EmbedCaptions
from components.storage.atomic import content_key, remove, write_json
from components.storage.buckets.bucket import Bucket
from components.storage.bulk import forget_lost, keep_remote, local_copy
from components.storage.computed import FETCHED, code_of
from components.storage.embeddings import read_vectors, write_embeddings
from components.storage.manifest import Entry, listed
from components.storage.result_cache import get_or_build, is_intact
from components.storage.side_tables import read_table, text_key, write_table

if TYPE_CHECKING:
    from torch import Tensor

TEXTS = "texts.parquet"  # in the cached result, not in the stage's output
SEEN_TEXTS = pa.schema([("text_key", pa.string()), ("tokens", pa.int32()), ("is_cut", pa.bool_())])
_REMEDY = "it is computed again"
log = logging.getLogger("llm2clip")


@dataclass(frozen=True)
class EarlierVectors:
    """Texts in an earlier cached result of the same encoder, column and shard.

    Attributes:
        rows: Row of `vectors`, by `text_key`.
        vectors: (M, d) fp16.
        tokens: Number of tokens of each row's text.
        is_cut: Whether each row's text was cut.
        spent: The seconds that computing them took.
    """

    rows: dict[str, int]
    vectors: Tensor
    tokens: list[int | None]
    is_cut: list[bool | None]
    spent: Spent


@dataclass(frozen=True)
class Embedder:
    """Embeds with one encoder; `progress` is called with the number of texts of each finished batch.

    The lines of a file decide its cached result. If they change, the vectors of texts in the earlier result
    of the same encoder are reused, only new texts are embedded, and the earlier result is removed. A vector
    depends on its batch by rounding: a reused vector equals one computed from scratch to about the last bit
    of fp16 where the encoder works in float32, and to `min_recheck_cosine` in bf16. Results computed from
    scratch are equal to the bit.
    """

    encoder: Encoder
    params: EmbedCaptions
    seed: int
    store: Path
    root: Bucket | None  # where vectors go in bulk mode
    progress: Callable[[int], None]

    @cached_property
    def _header(self) -> dict[str, Any]:
        """Header of all files: what decides a vector besides its text."""
        made_by = self.encoder.made_by
        code = code_of(self.store.parent, "embed_captions", made_by) if made_by else FETCHED["embedding"]
        return {**self.encoder.about, CODE: code}

    @cached_property
    def _encoder_key(self) -> str:
        return content_key([self._header[CODE], self.encoder.about])

    def folder(self, file: TextFile) -> Path:
        """Return the folder of a file's cached result, named by a hash of all that decides it."""
        params = self.params
        key = content_key(
            [self._encoder_key, file.content, params.batch_tokens, params.recheck_rows, self.seed]
        )
        return self.store / self._encoder_key / (file.folder or ".") / file.name / key

    def is_there(self, file: TextFile) -> bool:
        """Return whether a file's cached result is complete and intact, its vectors in the right store."""
        folder = self.folder(file)
        forget_lost(folder, self.root)
        return is_intact(folder) and all(entry.is_remote == bool(self.root) for entry in _vectors_of(folder))

    def made(self, file: TextFile) -> Path:
        """Return the folder of a file's cached result; compute it if it is missing."""
        folder = self.folder(file)
        get_or_build(folder.parent, folder.name, partial(self._write, file))
        if self.root:
            keep_remote(folder, self.root, f"{self.encoder.name}/{file.folder}".rstrip("/"))
        for path in self._earlier(file):  # the next result takes its vectors from this one
            remove(path)
        return folder

    def seen(self, file: TextFile) -> set[str]:
        """Return the keys of the texts that a file's latest earlier result lists."""
        for path in self._earlier(file):
            with suppress(DataError, OSError):  # a damaged one is reported when its vectors are read
                return set(read_table(path / TEXTS, SEEN_TEXTS)["text_key"].to_pylist())
        return set()

    def _earlier(self, file: TextFile) -> list[Path]:
        """Return the cached results of other lines of the same column and shard, the latest first."""
        folder = self.folder(file)
        paths = [path for path in folder.parent.glob("[0-9a-f]" * len(folder.name)) if path != folder]
        return sorted(paths, key=lambda path: (path.stat().st_mtime, path.name), reverse=True)

    def _write(self, file: TextFile, folder: Path) -> None:
        """Write a file's vectors, one for each distinct text, its table and its figures."""
        import torch

        start_seconds = time.monotonic()
        rows, texts, keys = distinct([line.text for line in file.lines])
        known = self._known(file)
        new_indices = [index for index, key in enumerate(keys) if key not in known.rows]
        encoded = self.encoder.encode([texts[index] for index in new_indices], self.progress)
        row_by_key = known.rows | {
            keys[index]: len(known.rows) + row for row, index in enumerate(new_indices)
        }
        order = [row_by_key[key] for key in keys]
        vectors = torch.cat([known.vectors.view(-1, encoded.vectors.shape[1]), encoded.vectors.half()])[order]
        tokens = _in_order([*known.tokens, *encoded.tokens], order)
        is_cut = _in_order([*known.is_cut, *encoded.is_cut], order)
        table = _table(file, rows)
        write_embeddings(folder, file.name, self._header, table, vectors)
        write_table(folder / TEXTS, pa.table([keys, tokens, is_cut], schema=SEEN_TEXTS))
        figures = {
            "of": file.title,
            "captions": len(table),
            "unique_captions": len(texts),
            "cut_captions": _sum(is_cut),
            "tokens": _sum(tokens),
            "dimension": vectors.shape[1],
            "recheck_min_cosine": self._recheck(texts, vectors.float()),
        }
        check_again(figures, self.params)
        write_json(folder / f"{file.name}.json", figures)
        spent = Spent(work_seconds=time.monotonic() - start_seconds)
        all_new = len(new_indices) == len(keys)
        keep_spent(folder, spent if all_new else together([known.spent, spent]))

    def _known(self, file: TextFile) -> EarlierVectors:
        """Return the texts of the latest intact earlier result of the same encoder, column and shard."""
        import torch

        for path in self._earlier(file):
            if not is_intact(path):
                continue
            (entry,) = _vectors_of(path)
            table_path = path / f"{file.name}.parquet"
            try:
                with local_copy(path, entry, self.store.parent) as vectors_path:
                    about, vectors, _ = read_vectors(vectors_path, file.schema, _REMEDY, table_path)
            except (DataError, ConfigurationError) as error:  # reusing them only saves time
                log.warning("earlier vectors of %s are not reused: %s", file.title, error)
                continue
            if about != self._header:
                continue
            seen = read_table(path / TEXTS, SEEN_TEXTS)
            rows = {key: row for row, key in enumerate(seen["text_key"].to_pylist())}
            tokens, is_cut = seen["tokens"].to_pylist(), seen["is_cut"].to_pylist()
            return EarlierVectors(rows, vectors, tokens, is_cut, load_spent(path))
        return EarlierVectors({}, torch.empty(0, dtype=torch.float16), [], [], Spent())

    def _recheck(self, texts: list[str], vectors: Tensor) -> float | None:
        """Return the smallest cosine between stored vectors and those of their texts encoded one by one."""
        import torch

        generator = torch.Generator().manual_seed(self.seed)
        sample = torch.randperm(len(texts), generator=generator)[: self.params.recheck_rows]
        if not len(sample):
            return None
        alone = self.encoder.encode_alone([texts[row] for row in sample])
        return round(float(torch.nn.functional.cosine_similarity(alone, vectors[sample]).min()), 6)


def check_again(figures: dict[str, Any], params: EmbedCaptions) -> None:
    """Compare a file's `recheck_min_cosine` with the limit, also where an earlier run embedded it.

    Raises:
        DataError: it is below.
    """
    cosine = figures["recheck_min_cosine"]
    if cosine is not None and not cosine >= params.min_recheck_cosine:
        raise DataError(
            f"{figures['of']}: a text encoded again alone has cosine {cosine:.6f} to its stored embedding; "
            f"embed_captions.min_recheck_cosine asks for {params.min_recheck_cosine:g}: batches change the "
            "model's output, try precision fp32"
        )


def _vectors_of(folder: Path) -> list[Entry]:
    return [entry for entry in listed(folder) if entry.is_vectors]


def _in_order(values: list[Any], order: list[int]) -> list[Any]:
    return [values[row] for row in order]


def _sum(counts: list[Any]) -> int | None:
    return None if None in counts else sum(counts)


def _table(file: TextFile, rows: list[int]) -> pa.Table:
    names = [name for name in file.schema.names if name != "row"]
    columns = {name: [getattr(line, name) for line in file.lines] for name in names}
    return pa.table({**columns, "row": rows}, schema=file.schema)


def distinct(texts: list[str]) -> tuple[list[int], list[str], list[str]]:
    """Return each text's row among the distinct texts, those texts by first appearance, and their keys.

    Distinct texts are in NFC, as their keys are: how a text was composed in Unicode changes no vector.

    Example:
        >>> distinct(["a", "b", "a"])[:2]
        ([0, 1, 0], ['a', 'b'])
    """
    numbers: dict[str, int] = {}
    unique_texts: list[str] = []
    rows = []
    for text in texts:
        number = numbers.setdefault(text_key(text), len(numbers))
        if number == len(unique_texts):
            unique_texts.append(unicodedata.normalize("NFC", text))
        rows.append(number)
    return rows, unique_texts, list(numbers)
