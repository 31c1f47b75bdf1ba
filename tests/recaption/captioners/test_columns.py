from __future__ import annotations

from hashlib import sha256

import pytest

from components.recaption.captioners.columns import FromColumns, FromSources
from components.settings.recaption import ColumnsCaptioner, Take
from components.storage.shards import Pair
from components.storage.side_tables import Caption

FIVE = ["zero", "one", " two ", "three", "four"]


def taken(take: str, texts: list[str], key: str = "k1", split: str = "train") -> list[str]:
    section = Take.model_validate({"source": "human", "column": "new", "take": take, "splits": ["train"]})
    captioner = FromColumns(ColumnsCaptioner(kind="columns", name="mine", columns=[section]), FromSources([]))
    source = [Caption(key, split, "human", "zh", number, text, "x") for number, text in enumerate(texts)]
    pairs = [Pair(key, b"", "", {"split": split})]
    (part,) = captioner.parts()
    written = [draft.caption for draft in captioner.write(part, pairs, source[::-1])]
    assert all(one.writer == "mine" and one.column == "new" for one in written)
    assert [one.number for one in written] == list(range(len(written)))
    assert all(one.language == ("zh" if texts else "") for one in written)
    return [one.text for one in written]


def choice(key: str) -> int:
    return int.from_bytes(sha256(key.encode()).digest()[:8], "big") % 5


def test_each_way_to_take() -> None:
    clean = [text.strip() for text in FIVE]
    chosen = clean[choice("k1")]
    assert taken("all", FIVE) == clean
    assert taken("first", FIVE) == ["zero"]
    assert taken("one_by_key", FIVE) == [chosen]
    assert taken("others_joined", FIVE) == [" ".join(text for text in clean if text != chosen)]
    assert taken("rest_joined", FIVE) == ["one two three four"]


def test_the_choice_is_of_the_key_alone_and_reaches_all() -> None:
    found = {taken("one_by_key", FIVE, f"key{number}")[0] for number in range(60)}
    assert found == {text.strip() for text in FIVE}


@pytest.mark.parametrize("take", ["all", "first", "one_by_key", "others_joined", "rest_joined"])
def test_nothing_to_take_is_an_empty_caption(take: str) -> None:
    assert taken(take, []) == [""]


def test_other_splits_are_left_alone() -> None:
    assert taken("all", FIVE, split="test") == []


def test_a_column_is_written_once() -> None:
    take = Take(source="human", column="new", take="all", splits=["train"])
    with pytest.raises(ValueError, match="new of train is written twice"):
        ColumnsCaptioner(kind="columns", name="mine", columns=[take, take])
