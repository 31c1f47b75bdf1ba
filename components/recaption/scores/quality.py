"""Score written captions against the ground truth of validation rows of rendered scenes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from components.sources.scenes.scene import scene_facts
from components.sources.scenes.scores import bleu, fact_scores, scene_described
from components.storage.side_tables import Caption

SPLIT = "validation"


class Quality:
    """Collect validation captions shard by shard and score them.

    The ground truth is read from source captions in the grammar of the scenes.

    Args:
        columns: The written column of each kind, short or dense.
    """

    def __init__(self, columns: dict[str, str]) -> None:
        self._columns = columns
        self._texts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))

    def add(self, captions: Sequence[Caption]) -> None:
        """Add the captions of a shard, from the source and the captioner."""
        columns = {*self._columns, *self._columns.values()}
        for caption in sorted(captions, key=lambda caption: caption.number):
            if caption.split == SPLIT and caption.column in columns:
                self._texts[caption.key][caption.column].append(caption.text)

    def figures(self) -> dict[str, Any]:
        """Return scores by kind; None for a kind without ground truth. A missing caption counts as wrong."""
        rows = [
            (scene, captions)
            for _, captions in sorted(self._texts.items())
            if (scene := scene_described(next(iter(captions.get("dense", [])), "")))
        ]
        figures: dict[str, Any] = {}
        for kind, column in self._columns.items():
            written = [next(iter(captions.get(column, [])), "") for _, captions in rows]
            if not any(written):
                figures[kind] = None
                continue
            facts = [scene_facts(scene, kind) for scene, _ in rows]
            references = [captions.get(kind, [""]) for _, captions in rows]
            figures[kind] = {
                "rows": len(rows),
                **fact_scores(written, facts),
                "bleu_4": bleu(written, references),
            }
        return figures
