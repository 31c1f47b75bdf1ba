"""Embed the distinct texts of one file, write them, and recheck some."""

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
from components.running.costs import Spent, keep_spent, kept_spent, together
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

TEXTS = "texts.parquet"  # of a piece, and of no output
SEEN_TEXTS = pa.schema([("text_key", pa.string()), ("tokens", pa.int32()), ("is_cut", pa.bool_())])
_MEND = "it is made again"
log = logging.getLogger("llm2clip")


@dataclass(frozen=True)
class Known:
    """Texts that an earlier piece of the same encoder, column and shard holds.

    Attributes:
        rows: By `text_key`, their row of `vectors`.
        vectors: (M, d) fp16.
        tokens: Of each row.
        is_cut: Of each row.
        spent: The seconds behind them.
    """

    rows: dict[str, int]
    vectors: Tensor
    tokens: list[int | None]
    is_cut: list[bool | None]
    spent: Spent


@dataclass(frozen=True)
class Embedder:
    """Embeds with one encoder; `progress` is told the number of texts of each finished batch.

    A piece is decided by the lines of its file. Where they change, the vectors of texts that the earlier
    piece of the same encoder holds are taken from there, only new ones are computed, and the earlier piece is
    removed. A vector depends on its batch by rounding: one that was taken equals that of a run from scratch
    to about the last bit of fp16 where the encoder works in float32, and to `min_recheck_cosine` in bf16.
    Pieces made from scratch are equal to the bit.
    """

    encoder: Encoder
    params: EmbedCaptions
    seed: int
    store: Path
    root: Bucket | None  # where vectors go in bulk mode
    progress: Callable[[int], None]

    @cached_property
    def _of_encoder(self) -> str:
        made_by = self.encoder.made_by
        code = code_of(self.store.parent, "embed_captions", made_by) if made_by else FETCHED["embedding"]
        return content_key([code, self.encoder.about])

    def folder(self, file: TextFile) -> Path:
        """Return where the piece of a file is, or will be: named by a hash of all that decides it."""
        own = self.params
        key = content_key([self._of_encoder, file.content, own.batch_tokens, own.recheck_rows, self.seed])
        return self.store / self._of_encoder / (file.folder or ".") / file.name / key

    def is_there(self, file: TextFile) -> bool:
        """Say whether a file's piece is finished and intact, its vectors where they belong."""
        folder = self.folder(file)
        forget_lost(folder, self.root)
        return is_intact(folder) and all(entry.is_remote == bool(self.root) for entry in _vectors_of(folder))

    def made(self, file: TextFile) -> Path:
        """Return the finished piece of a file, made now unless it is there."""
        folder = self.folder(file)
        get_or_build(folder.parent, folder.name, partial(self._write, file))
        if self.root:
            keep_remote(folder, self.root, f"{self.encoder.name}/{file.folder}".rstrip("/"))
        for path in self._earlier(file):  # the next one takes its vectors from this one
            remove(path)
        return folder

    def seen(self, file: TextFile) -> set[str]:
        """Return the keys of the texts that the latest earlier piece of a file says to hold."""
        for path in self._earlier(file):
            with suppress(DataError, OSError):  # a damaged one is told when its vectors would be taken
                return set(read_table(path / TEXTS, SEEN_TEXTS)["text_key"].to_pylist())
        return set()

    def _earlier(self, file: TextFile) -> list[Path]:
        """Return the pieces that other lines of the same column and shard decided, the latest first."""
        own = self.folder(file)
        found = [path for path in own.parent.glob("[0-9a-f]" * len(own.name)) if path != own]
        return sorted(found, key=lambda one: (one.stat().st_mtime, one.name), reverse=True)

    def _write(self, file: TextFile, folder: Path) -> None:
        """Write the embeddings of one file's lines, those of equal text sharing one, and the figures."""
        import torch

        start_seconds = time.monotonic()
        rows, texts, keys = distinct([line.text for line in file.lines])
        known = self._known(file)
        new = [place for place, key in enumerate(keys) if key not in known.rows]
        encoded = self.encoder.encode([texts[place] for place in new], self.progress)
        numbers = known.rows | {keys[place]: len(known.rows) + row for row, place in enumerate(new)}
        order = [numbers[key] for key in keys]
        vectors = torch.cat([known.vectors.view(-1, encoded.vectors.shape[1]), encoded.vectors.half()])[order]
        tokens = _in_order([*known.tokens, *encoded.tokens], order)
        is_cut = _in_order([*known.is_cut, *encoded.is_cut], order)
        table = _table(file, rows)
        write_embeddings(folder, file.name, self.encoder.about, table, vectors)
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
        is_new = len(new) == len(keys)
        keep_spent(folder, spent if is_new else together([known.spent, spent]))

    def _known(self, file: TextFile) -> Known:
        """Return what the latest intact earlier piece of the same encoder, column and shard holds."""
        import torch

        for path in self._earlier(file):
            if not is_intact(path):
                continue
            (entry,) = _vectors_of(path)
            lines = path / f"{file.name}.parquet"
            try:
                with local_copy(path, entry, self.store.parent) as there:
                    about, vectors, _ = read_vectors(there, file.schema, _MEND, lines)
            except (DataError, ConfigurationError) as fault:  # it would have saved time, no more
                log.warning("earlier vectors of %s are not taken: %s", file.title, fault)
                continue
            if about != self.encoder.about:
                continue
            seen = read_table(path / TEXTS, SEEN_TEXTS)
            rows = {key: row for row, key in enumerate(seen["text_key"].to_pylist())}
            tokens, is_cut = seen["tokens"].to_pylist(), seen["is_cut"].to_pylist()
            return Known(rows, vectors, tokens, is_cut, kept_spent(path))
        return Known({}, torch.empty(0, dtype=torch.float16), [], [], Spent())

    def _recheck(self, texts: list[str], vectors: Tensor) -> float | None:
        """Return the smallest cosine between stored vectors and those of their texts encoded one by one."""
        import torch

        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(texts), generator=generator)[: self.params.recheck_rows]
        if not len(chosen):
            return None
        again = self.encoder.encode_alone([texts[row] for row in chosen])
        return round(float(torch.nn.functional.cosine_similarity(again, vectors[chosen]).min()), 6)


def check_again(figures: dict[str, Any], params: EmbedCaptions) -> None:
    """Compare a file's `recheck_min_cosine` with the limit, also where an earlier run embedded it.

    Raises:
        DataError: it is below.
    """
    cosine = figures["recheck_min_cosine"]
    if cosine is not None and not cosine >= params.min_recheck_cosine:
        raise DataError(
            f"{figures['of']}: a text encoded again alone has cosine {cosine:.6f} to its stored embedding; "
            f"embed_captions.min_recheck_cosine asks for {params.min_recheck_cosine:g}: batches change what "
            "the model says, try precision fp32"
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
    """Return for each text its row among the distinct ones; those in order of first appearance; their keys.

    Distinct ones are in NFC, as their keys are: which way a text was composed decides no vector.

    Example:
        >>> distinct(["a", "b", "a"])[:2]
        ([0, 1, 0], ['a', 'b'])
    """
    numbers: dict[str, int] = {}
    found: list[str] = []
    rows = []
    for text in texts:
        number = numbers.setdefault(text_key(text), len(numbers))
        if number == len(found):
            found.append(unicodedata.normalize("NFC", text))
        rows.append(number)
    return rows, found, list(numbers)
