"""Seven images, and which of them filters drop."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from components.audit.curation.dropped import Drop
from components.audit.curation.score_table import ScoreTable
from components.audit.curation.select import Curator
from components.settings.audit import Curation
from components.storage.layout import Layout
from tests.audit.conftest import images_of

KEYS = ["e", "d", "c", "b", "a", "v", "t"]
SPLITS = ["train"] * 5 + ["validation", "test"]
IMAGES = images_of(KEYS, SPLITS)
NOTHING: dict[str, Any] = {"heads": [], "similarity": None, "near_images": None, "near_captions": None}


def curated(
    settings: dict[str, Any], scores: ScoreTable | None = None, leaked: dict[int, int] | None = None
) -> dict[str, Drop]:
    curator = Curator(IMAGES, leaked or {})
    curator.curate(
        Curation.model_validate(settings), scores or ScoreTable({}, {}), Layout(Path(".work")), Path("inputs")
    )
    drops = {key: curator.dropped.drop(row) for row, key in enumerate(KEYS)}
    found = {key: drop for key, drop in drops.items() if drop}
    assert curator.dropped.rows.tolist() == [key in found for key in KEYS]
    assert curator.dropped.counts() == Counter(drop.reason for drop in found.values())
    return found
