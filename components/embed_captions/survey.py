"""Estimate the work before the stage starts: captions, tokens, bytes and minutes."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from components.embed_captions.embedding import Embedder, distinct
from components.embed_captions.encoder import Encoder
from components.embed_captions.sources import CaptionShard, TextFile
from components.errors import InfrastructureError
from components.planning.past_throughput import PastRun

SAMPLED_TEXTS, TEXTS_A_FILE = 512, 16  # to estimate the number of tokens
HALF_BYTES = 2
LINE_BYTES = 40  # a caption's line in the table beside the vectors, packed
SPARE_BYTES = 200_000_000
SECONDS_PER_MINUTE = 60
SAMPLE_SECONDS, TEXTS_OF_SAMPLE = 5.0, 64  # a large LLM on a CPU takes minutes for the whole sample
TEXTS_WORTH_A_SAMPLE = 20_000  # fewer are embedded so soon that nobody needs an estimate
log = logging.getLogger("llm2clip")


@dataclass
class Missing:
    """Work that is left for one encoder.

    Attributes:
        captions: Number of captions in missing files.
        texts: Number of texts, distinct within their files.
        new: Number of those texts that no earlier cached result has.
        most_texts: Largest number of distinct texts in one file.
        shards: Shards of the missing files; `None` stands for the prompts.
        sample: Some of the new texts.
    """

    captions: int = 0
    texts: int = 0
    new: int = 0
    most_texts: int = 0
    shards: list[CaptionShard | None] = field(default_factory=list)
    sample: list[str] = field(default_factory=list)

    def add(
        self, shard: CaptionShard | None, files: Iterable[TextFile], seen: Callable[[TextFile], set[str]]
    ) -> None:
        """Add a shard's missing files; `seen` returns the keys of texts that need not be computed."""
        for file in files:
            if not self.shards or self.shards[-1] is not shard:
                self.shards.append(shard)
            _, texts, keys = distinct([line.text for line in file.lines])
            known = seen(file)
            new = [text for text, key in zip(texts, keys, strict=True) if key not in known]
            self.captions += len(file.lines)
            self.texts += len(texts)
            self.new += len(new)
            self.most_texts = max(self.most_texts, len(texts))
            if len(self.sample) < SAMPLED_TEXTS:
                self.sample += new[:TEXTS_A_FILE]


def survey(
    embedders: Sequence[Embedder], files: Sequence[TextFile], shard: CaptionShard | None, found: list[Missing]
) -> None:
    """Add the files of a shard, or of the prompts, that each encoder still lacks to its `Missing`."""
    for embedder, missing in zip(embedders, found, strict=True):
        missing.add(shard, [file for file in files if not embedder.is_there(file)], embedder.seen)


def log_expected_time(
    encoders: Sequence[Encoder], found: Sequence[Missing], earlier: PastRun | None, *, can_try: bool
) -> None:
    """Log the expected duration: from an earlier run, or by timing a sample where there is much to embed.

    Args:
        encoders: Of the run; all models are released afterwards.
        found: Work that is left for each encoder.
        earlier: The last run with encoders of these names.
        can_try: Whether this process may embed the sample now.
    """
    new = sum(missing.new for missing in found)
    if not new:
        return
    if earlier:
        total_seconds = new * earlier.seconds_per_row
        origin = f"{earlier.seconds_per_row:.2g} s a text: {earlier.origin}"
    elif can_try and new >= TEXTS_WORTH_A_SAMPLE and all(encoder.made_by for encoder in encoders):
        total_seconds = sum(_sampled_seconds(*work) for work in zip(encoders, found, strict=True))
        origin = "extrapolated from a sample timed now"
    else:
        log.info("embed_captions: the remaining time is shown from the first batch on")
        return
    log.info("embed_captions: about %s minutes, %s", f"{total_seconds / SECONDS_PER_MINUTE:,.1f}", origin)


def _sampled_seconds(encoder: Encoder, missing: Missing) -> float:
    """Return the seconds that an encoder will take for all new texts, extrapolated from a timed sample."""
    if not missing.sample:
        return 0.0
    encoder.encode(missing.sample[:TEXTS_A_FILE], lambda _: None)  # loads the model
    start_seconds, spent, done = time.monotonic(), 0.0, 0
    while spent < SAMPLE_SECONDS and done < len(missing.sample):
        batch = missing.sample[done : done + TEXTS_OF_SAMPLE]
        encoder.encode(batch, lambda _: None)
        spent, done = time.monotonic() - start_seconds, done + len(batch)
    encoder.release()
    return spent / done * missing.new


def log_work(
    encoders: Sequence[Encoder], found: Sequence[Missing], files_at_once: int, *, is_bulk: bool
) -> float:
    """Log the work of each encoder; return the most bytes that will be on this disk.

    Args:
        encoders: Of the run; all models are released afterwards.
        found: Work that is left for each encoder.
        files_at_once: Number of files that are written at a time.
        is_bulk: Whether a finished file's vectors go to a bucket. A file that is being written lies beside
            the earlier one that it takes vectors from.
    """
    table_bytes, vector_bytes, in_flight_bytes = 0, 0, 0
    for encoder, missing in zip(encoders, found, strict=True):
        if not missing.texts:
            continue
        bytes_a_text = encoder.dimension * HALF_BYTES
        file_table_bytes, file_vector_bytes = missing.captions * LINE_BYTES, missing.texts * bytes_a_text
        table_bytes, vector_bytes = table_bytes + file_table_bytes, vector_bytes + file_vector_bytes
        in_flight_bytes = max(in_flight_bytes, 2 * files_at_once * missing.most_texts * bytes_a_text)
        tokens = encoder.tokens_of(missing.sample) if missing.sample else 0
        encoder.release()
        tokens_text = "tokens unknown"
        if tokens is not None:
            tokens_text = f"about {tokens / max(1, len(missing.sample)) * missing.new:,.0f} tokens"
        log.info(
            "embed_captions %s: %s captions to embed, %s distinct, %s of them new, %s, %.1f MB to be written",
            encoder.name,
            f"{missing.captions:,}",
            f"{missing.texts:,}",
            f"{missing.new:,}",
            tokens_text,
            (file_table_bytes + file_vector_bytes) / 1e6,
        )
    return table_bytes + (min(vector_bytes, in_flight_bytes) if is_bulk else vector_bytes)


def check_room(count: float, folders: Iterable[Path]) -> None:
    """Check that the disks have room for the output.

    Args:
        count: Bytes that will be written.
        folders: Of the cached results and of the artifact; on one disk they share their files.

    Raises:
        InfrastructureError: a disk has less.
    """
    checked = set()
    for folder in folders:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if (disk := os.stat(existing).st_dev) in checked:
            continue
        checked.add(disk)
        free = shutil.disk_usage(existing).free
        if count and free < count + SPARE_BYTES:
            raise InfrastructureError(
                f"disk of {folder} has {free / 1e6:,.0f} MB free, embed_captions needs "
                f"{count / 1e6:,.0f} MB and leaves {SPARE_BYTES / 1e6:.0f}: free some or point "
                "LLM2CLIP_WORK_STORE elsewhere"
            )
