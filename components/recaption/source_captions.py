"""What a shard's source gave of captions, and a hash of its images, kept as a finished piece."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from components.errors import DataError
from components.storage.atomic import content_key, write_json
from components.storage.shards import Pair
from components.storage.side_tables import Caption, write_captions

CAPTIONS, PIXELS = "captions.parquet", "pixels.json"


def write_source(shard: str, pairs: Sequence[Pair], folder: Path) -> None:
    """Write the captions that the source gave, and by split a hash of its keys and images.

    Args:
        shard: Its file, for the message.
        pairs: All of the shard.
        folder: Of the piece.

    Raises:
        DataError: a caption is no text that UTF-8 can hold.
    """
    captions = [
        Caption(key=pair.key, split=pair.metadata["split"], **caption)
        for pair in pairs
        for caption in pair.metadata["captions"]
    ]
    if odd := next((caption.key for caption in captions if not is_storable(caption.text)), None):
        raise DataError(
            f"{shard}: a caption of {odd} holds half a character; expected text: "
            "run `llm2clip forget download shards`"
        )
    write_captions(folder / CAPTIONS, captions)
    images: dict[str, list[list[str]]] = defaultdict(list)
    for pair in pairs:
        images[pair.metadata["split"]].append([pair.key, sha256(pair.jpeg).hexdigest()])
    write_json(folder / PIXELS, {split: content_key(found) for split, found in images.items()})


def is_storable(text: str) -> bool:
    """Say whether UTF-8 can hold a text: it has no half of a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
