"""HTML gallery of old and new captions side by side, for images chosen by a hash of the key."""

from __future__ import annotations

import heapq
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.audit.curation.dropped import Drop, Dropped
from components.audit.images import AuditImages
from components.running.page import inline_picture, page_environment
from components.storage.atomic import write_bytes
from components.storage.manifest import Entry
from components.storage.scores import read_scores
from components.storage.shards import Pair, pairs_in_use
from components.storage.side_tables import Caption, read_captions

Chosen = dict[str, "Drop | None"]  # by key, why an image is dropped; None if it is not
TEMPLATE = "gallery.html.j2"
PICTURE_PIXELS = 320
SHOWN_CHARACTERS = 1200
# control characters, text directions and zero-width spaces: they hide or reorder the text beside them.
# Joiners are not among them: emoji and Persian need them.
HIDDEN = re.compile(
    r"[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
)


@dataclass(frozen=True)
class Text:
    """A caption as the page shows it; a missing score is None."""

    column: str
    language: str
    writer: str
    parts: list[tuple[bool, str]]  # (is hidden character, text)
    left_out: int  # number of characters
    similarity: float | None
    is_cut: bool
    agreement: float | None


@dataclass(frozen=True)
class ImageCard:
    """One image with its original captions and its new ones."""

    key: str
    picture: str  # data URI
    size: str
    drop: Drop | None
    old: list[Text]
    new: list[Text]


@dataclass(frozen=True)
class ShardFiles:
    """Paths of one shard's images, captions and scores."""

    download: Path
    entry: Entry
    work: Path  # the stage's folder in the work store
    captions: Path
    scores: Path  # may not exist


def chosen_keys(images: AuditImages, dropped: Dropped, count: int) -> dict[str, Chosen]:
    """Return by shard the train images whose keys have the smallest sha256: the same in every run.

    Args:
        images: All images of download.
        dropped: The dropped images; each chosen key comes with its reason, if it is dropped.
        count: Maximum number of images.
    """
    is_train = images.are("train")
    train = (
        (sha256(key.encode()).digest(), number, row, key)
        for number in range(len(images.shards))
        for row, key in zip(images.rows_in(number), images.keys.chunk(number).to_pylist(), strict=True)
        if is_train[row]
    )
    chosen: dict[str, Chosen] = {}
    for _, number, row, key in heapq.nsmallest(count, train):
        chosen.setdefault(images.shards[number], {})[key] = dropped.drop(row)
    return chosen


def write_gallery(path: Path, shards: Iterable[tuple[ShardFiles, Chosen]], verdict: str) -> None:
    """Write the page.

    Args:
        path: File to write.
        shards: Shards with images to show, each with its chosen images.
        verdict: Verdict of the audit.
    """
    cards = sorted((card for shard in shards for card in _cards(*shard)), key=lambda card: card.key)
    environment = page_environment(Path(__file__).parent)
    environment.filters["grouped"] = lambda number: f"{number:,}"
    page = environment.get_template(TEMPLATE).render(cards=cards, verdict=verdict)
    write_bytes(path, page.encode())


def shown(text: str) -> list[tuple[bool, str]]:
    r"""Split a text into visible parts and hidden characters; the latter are replaced by their Unicode names.

    Example:
        >>> shown("a\u202eb")
        [(False, 'a'), (True, 'RIGHT-TO-LEFT OVERRIDE'), (False, 'b')]
    """
    parts, end = [], 0
    for match in HIDDEN.finditer(text):
        if match.start() > end:
            parts.append((False, text[end : match.start()]))
        parts.append((True, unicodedata.name(match[0], f"U+{ord(match[0]):04X}")))
        end = match.end()
    return [*parts, (False, text[end:])] if end < len(text) else parts


def _cards(shard: ShardFiles, chosen: Chosen) -> Iterator[ImageCard]:
    captions: dict[str, list[Caption]] = {}
    for caption in read_captions(shard.captions):
        if caption.key in chosen:
            captions.setdefault(caption.key, []).append(caption)
    if not captions:
        return
    scores = _scores(shard.scores, captions)
    for pair in pairs_in_use(shard.download, shard.entry, shard.work):
        if pair.key in chosen:
            yield _card(pair, captions.get(pair.key, []), scores, chosen[pair.key])


def _card(
    pair: Pair, captions: list[Caption], scores: dict[tuple[str, str, int], Any], drop: Drop | None
) -> ImageCard:
    original = {(caption["column"], caption["number"]) for caption in pair.metadata.get("captions", [])}
    old = [caption for caption in captions if (caption.column, caption.number) in original]
    new = [caption for caption in captions if (caption.column, caption.number) not in original]
    size = f"{pair.metadata.get('width', '?')} x {pair.metadata.get('height', '?')}"
    picture = inline_picture(pair.jpeg, PICTURE_PIXELS)
    return ImageCard(pair.key, picture, size, drop, _texts(old, scores), _texts(new, scores))


def _texts(captions: Iterable[Caption], scores: dict[tuple[str, str, int], Any]) -> list[Text]:
    texts = []
    for caption in sorted(captions, key=lambda caption: (caption.column, caption.number)):
        score = scores.get((caption.key, caption.column, caption.number), {})
        texts.append(
            Text(
                caption.column,
                caption.language,
                caption.writer,
                shown(caption.text[:SHOWN_CHARACTERS]),
                max(0, len(caption.text) - SHOWN_CHARACTERS),
                score.get("similarity"),
                bool(score.get("is_cut")),
                score.get("agreement"),
            )
        )
    return texts


def _scores(path: Path, captions: dict[str, list[Caption]]) -> dict[tuple[str, str, int], Any]:
    if not path.is_file():
        return {}
    table = read_scores(path)
    lines = table.filter(pa.array([key in captions for key in table["key"].to_pylist()], pa.bool_()))
    return {(line["key"], line["column"], line["number"]): line for line in lines.to_pylist()}
