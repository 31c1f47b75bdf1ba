"""How right the written captions are, where validation rows have ground truth in the scenes' own grammar."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from components.sources.scenes.scene import scene_facts
from components.sources.scenes.scores import bleu, fact_scores, scene_described
from components.storage.side_tables import Caption

SPLIT = "validation"


class Quality:
    """Collects validation captions shard by shard.

    Args:
        columns: The written column of each kind, short or dense.
    """

    def __init__(self, columns: dict[str, str]) -> None:
        self._columns = columns
        self._texts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))

    def add(self, captions: Sequence[Caption]) -> None:
        """Take in the captions of a shard, those of the source and the written ones."""
        wanted = {*self._columns, *self._columns.values()}
        for caption in sorted(captions, key=lambda one: one.number):
            if caption.split == SPLIT and caption.column in wanted:
                self._texts[caption.key][caption.column].append(caption.text)

    def figures(self) -> dict[str, Any]:
        """Return scores by kind; None for a kind without ground truth. A caption that is missing is wrong."""
        rows = [
            (scene, of_key)
            for _, of_key in sorted(self._texts.items())
            if (scene := scene_described(next(iter(of_key.get("dense", [])), "")))
        ]
        figures: dict[str, Any] = {}
        for kind, column in self._columns.items():
            written = [next(iter(of_key.get(column, [])), "") for _, of_key in rows]
            if not any(written):
                figures[kind] = None
                continue
            truths = [scene_facts(scene, kind) for scene, _ in rows]
            references = [of_key.get(kind, [""]) for _, of_key in rows]
            figures[kind] = {
                "rows": len(rows),
                **fact_scores(written, truths),
                "bleu_4": bleu(written, references),
            }
        return figures
