from __future__ import annotations

from itertools import permutations

from components.recaption.captioners.captioner import Asked
from components.recaption.captioners.columns import FromColumns, FromSources
from components.recaption.filters.divide import RepeatedCaptions
from components.settings.recaption import ColumnsCaptioner, Take
from components.storage.side_tables import Caption, Draft


class Dense(FromColumns):
    """Columns that were asked for as dense captions, but for `free`."""

    def asked(self, column: str, split: str) -> Asked:
        return Asked(None if column == "free" else "dense", "")


CAPTIONER = Dense(
    ColumnsCaptioner(
        kind="columns", name="x", columns=[Take(source="a", column="c", take="all", splits=["train"])]
    ),
    FromSources([]),
)


def draft(key: str, text: str, column: str = "c", reason: str | None = None) -> Draft:
    return Draft(Caption(key, "train", column, "en", 0, text, "x"), reason)


SHARDS = [
    [draft("k1", "same"), draft("k2", "same"), draft("k3", "other")],
    [draft("k4", "same"), draft("k5", "own"), draft("k5", "own", "d")],
    [
        draft("k6", "other"),
        draft("k7", "same", "free"),
        draft("k8", "same", "free"),
        draft("k9", "x", reason="empty"),
    ],
]


def over(shards: list[list[Draft]], limit: int) -> set[str]:
    crowd = RepeatedCaptions({"dense": limit})
    for shard in shards:
        crowd.add(CAPTIONER, shard)
    return {one.caption.key for shard in shards for one in shard if crowd.is_over(CAPTIONER, one)}


def test_a_text_of_too_many_images_is_kept_by_none() -> None:
    assert over(SHARDS, 3) == set()
    assert over(SHARDS, 2) == {"k1", "k2", "k4"}
    assert over(SHARDS, 1) == {"k1", "k2", "k4", "k3", "k6"}


def test_the_order_of_shards_changes_nothing() -> None:
    assert all(over(list(shards), 2) == {"k1", "k2", "k4"} for shards in permutations(SHARDS))


def test_equal_captions_of_one_image_are_one() -> None:
    assert over([[draft("k1", "same"), draft("k1", "same"), draft("k2", "x")]], 1) == set()


def test_two_ways_to_write_a_letter_are_one_text() -> None:
    assert over([[draft("k1", "caf\u00e9"), draft("k2", "cafe\u0301")]], 1) == {"k1", "k2"}


def test_without_a_limit_nothing_is_counted() -> None:
    crowd = RepeatedCaptions({})
    for shard in SHARDS:
        crowd.add(CAPTIONER, shard)
    assert not any(crowd.is_over(CAPTIONER, one) for shard in SHARDS for one in shard)
