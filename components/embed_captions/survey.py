"""Count captions, tokens, bytes and minutes that are missing, before the stage starts."""

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

SAMPLED_TEXTS, TEXTS_A_FILE = 512, 16  # for the count of tokens
HALF_BYTES = 2
LINE_BYTES = 40  # of a caption in the table beside the vectors, packed
SPARE_BYTES = 200_000_000
SECONDS_PER_MINUTE = 60
SAMPLE_SECONDS, TEXTS_OF_SAMPLE = 5.0, 64  # a large LLM on a CPU takes minutes for all of the sample
TEXTS_WORTH_A_SAMPLE = 20_000  # fewer are embedded before anybody plans by minutes
log = logging.getLogger("llm2clip")


@dataclass
class Missing:
    """What one encoder has to embed.

    Attributes:
        captions: All of them.
        texts: Distinct within their files.
        new: Those of them that have to be computed: no earlier piece holds them.
        most_texts: Distinct in one file, of the file that has the most.
        shards: Names of the shards that they are in; `None` stands for the prompts.
        sample: Some of the new ones.
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
        """Count the files of a shard that are missing; `seen` gives the keys of what need not be computed."""
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
    """Add what each encoder lacks of a shard's files, or of the prompts, to what is found so far."""
    for embedder, missing in zip(embedders, found, strict=True):
        missing.add(shard, [file for file in files if not embedder.is_there(file)], embedder.seen)


def tell_time(
    encoders: Sequence[Encoder], found: Sequence[Missing], earlier: PastRun | None, *, can_try: bool
) -> None:
    """Log how long all will take: by an earlier run, or by the sample, embedded where much is to be done.

    Args:
        encoders: Of the run; none holds a model afterwards.
        found: What each has to embed.
        earlier: The last run with encoders of these names.
        can_try: Whether the sample may be embedded here and now.
    """
    new = sum(missing.new for missing in found)
    if not new:
        return
    if earlier:
        total_seconds = new * earlier.seconds_per_row
        origin = f"{earlier.seconds_per_row:.2g} s a text: {earlier.origin}"
    elif can_try and new >= TEXTS_WORTH_A_SAMPLE and all(one.made_by for one in encoders):
        total_seconds = sum(_sampled_seconds(*one) for one in zip(encoders, found, strict=True))
        origin = "as long as some of the texts took now"
    else:
        log.info("embed_captions: how long it takes is told from the first batch on")
        return
    log.info("embed_captions: about %s minutes, %s", f"{total_seconds / SECONDS_PER_MINUTE:,.1f}", origin)


def _sampled_seconds(encoder: Encoder, missing: Missing) -> float:
    """Return how long one encoder will take for all of its new texts, as long as its sample takes now."""
    if not missing.sample:
        return 0.0
    encoder.encode(missing.sample[:TEXTS_A_FILE], lambda _: None)  # loads the model
    start_seconds, spent, done = time.monotonic(), 0.0, 0
    while spent < SAMPLE_SECONDS and done < len(missing.sample):
        some = missing.sample[done : done + TEXTS_OF_SAMPLE]
        encoder.encode(some, lambda _: None)
        spent, done = time.monotonic() - start_seconds, done + len(some)
    encoder.release()
    return spent / done * missing.new


def tell(
    encoders: Sequence[Encoder], found: Sequence[Missing], files_at_once: int, *, is_bulk: bool
) -> float:
    """Log what each encoder will do; return the bytes that this disk has to take at most.

    Args:
        encoders: Of the run; none holds a model afterwards.
        found: What each has to embed.
        files_at_once: That are being made at a time.
        is_bulk: A file's vectors go to a bucket when it is finished. Beside one that is being made lies the
            earlier one that it takes vectors from.
    """
    lines, vectors, in_flight = 0, 0, 0
    for encoder, missing in zip(encoders, found, strict=True):
        if not missing.texts:
            continue
        of_text = encoder.dimension * HALF_BYTES
        of_lines, of_vectors = missing.captions * LINE_BYTES, missing.texts * of_text
        lines, vectors = lines + of_lines, vectors + of_vectors
        in_flight = max(in_flight, 2 * files_at_once * missing.most_texts * of_text)
        tokens = encoder.tokens_of(missing.sample) if missing.sample else 0
        encoder.release()
        words = "tokens unknown"
        if tokens is not None:
            words = f"about {tokens / max(1, len(missing.sample)) * missing.new:,.0f} tokens"
        log.info(
            "embed_captions %s: %s captions to embed, %s distinct, %s of them new, %s, %.1f MB to be written",
            encoder.name,
            f"{missing.captions:,}",
            f"{missing.texts:,}",
            f"{missing.new:,}",
            words,
            (of_lines + of_vectors) / 1e6,
        )
    return lines + (min(vectors, in_flight) if is_bulk else vectors)


def check_room(count: float, folders: Iterable[Path]) -> None:
    """Stop where a disk has no room for what will be written.

    Args:
        count: Bytes.
        folders: Of the pieces and of the artifact; on one disk they share their files.

    Raises:
        InfrastructureError: there is less.
    """
    checked = set()
    for folder in folders:
        there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
        if (disk := os.stat(there).st_dev) in checked:
            continue
        checked.add(disk)
        free = shutil.disk_usage(there).free
        if count and free < count + SPARE_BYTES:
            raise InfrastructureError(
                f"disk of {folder} has {free / 1e6:,.0f} MB free, embed_captions needs "
                f"{count / 1e6:,.0f} MB and leaves {SPARE_BYTES / 1e6:.0f}: free some, or point "
                "LLM2CLIP_WORK_STORE elsewhere"
            )
