"""The rows as the report shows them: split, kind, size, length of captions, whether they go on."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Any

import pyarrow as pa

from components.audit.captions import Captions
from components.audit.duplicates import Duplicates
from components.audit.scored import Scored


def described_rows(
    table: pa.Table,
    duplicates: Duplicates,
    dropped: Container[int],
    captions: Captions,
    scored: Scored,
    limit: int,
) -> list[dict[str, Any]]:
    """Return one entry for each row of data, or for every n-th where there are more than `limit`.

    Args:
        table: Fingerprints of all images.
        duplicates: By row number of `table`.
        dropped: Row numbers that do not go on.
        captions: Of all rows, with or without an image.
        scored: Of all images.
        limit: Entries at most.
    """
    columns = ("key", "split", "width", "height", "bytes")
    images = table.select(columns).to_pylist()
    known = {image["key"] for image in images}
    texts = [key for key in captions.split_of if key not in known]
    step = -(-(len(images) + len(texts)) // limit)
    entries = [
        _image_entry(image, number, duplicates, dropped)
        | _words(captions, image["key"])
        | _scores(scored, number)
        for number, image in enumerate(images)
        if number % step == 0
    ]
    nothing = {"kind": "text", "duplicate": "none", "kept": "yes"}
    entries += [
        {"split": captions.split_of[key], **nothing, **_words(captions, key)} for key in texts[::step]
    ]
    return entries


def _image_entry(
    image: dict[str, Any], number: int, duplicates: Duplicates, dropped: Container[int]
) -> dict[str, Any]:
    kinds = {"leaked": duplicates.leaked, "exact": duplicates.exact, "near": duplicates.near}
    return {
        "split": image["split"],
        "kind": "image",
        "duplicate": next((kind for kind, rows in kinds.items() if number in rows), "none"),
        "kept": "no" if number in dropped else "yes",
        "width (pixels)": image["width"],
        "height (pixels)": image["height"],
        "aspect (width / height)": image["width"] / image["height"],
        "size (bytes)": image["bytes"],
    }


def _words(captions: Captions, key: str) -> dict[str, float]:
    """Return the mean length of a row's captions of each kind."""
    kinds = captions.words.get(key, {})
    return {f"words of {kind}": sum(words) / len(words) for kind, words in kinds.items()}


def _scores(scored: Scored, number: int) -> dict[str, float]:
    """Return an image's scores by column; a score it lacks is left out."""
    kinds = {"similarity": scored.similarity, "agreement": scored.agreement}
    values = {
        f"{kind} of {column}": float(scores[number])
        for kind, columns in kinds.items()
        for column, scores in columns.items()
    }
    return {name: value for name, value in values.items() if math.isfinite(value)}
