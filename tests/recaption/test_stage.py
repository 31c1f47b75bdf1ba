from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from components.errors import ConfigurationError, DataError, Stopped
from components.recaption.captioners.captioner import Part
from components.recaption.captioners.columns import FromColumns
from components.recaption.captioners.made import FromPixels
from components.settings.params import Params
from components.settings.recaption import ModelCaptioner
from components.storage.layout import Layout
from components.storage.manifest import folder_key
from components.storage.shards import Pair
from components.storage.side_tables import Caption, Draft
from tests.recaption.project import COLUMNS, SHARDS, TAKE, TINY, pairs_of, run_with, written


def test_source_captions_stay_and_new_ones_join_by_key(smoke: Params, layout: Layout) -> None:
    metrics = run_with(smoke, layout, TINY | {"batch_size": 2}, COLUMNS)
    assert metrics["rows_in"] == 9 * 2 + 10
    assert metrics["rows_in"] == metrics["rows_out"] + sum(metrics["rejected"].values())
    for shard, splits in SHARDS.items():
        found = written(layout, shard)
        for pair in pairs_of(shard, splits):
            own = [one for one in found if one.key == pair.key]
            assert {one.split for one in own} == {pair.metadata["split"]}
            source = [one for one in own if one.writer == "scenes"]
            assert [one.text for one in source] == [one["text"] for one in pair.metadata["captions"]]
            (again,) = (one for one in own if one.column == "again")
            assert again.text == pair.caption
            assert ("tiny_short" in {one.column for one in own}) <= (pair.metadata["split"] != "test")


def test_the_model_sees_pixels_alone(layout: Layout) -> None:
    section = ModelCaptioner.model_validate({**TINY, "batch_size": 4})
    captioner = FromPixels(section, layout.artifact("base_models"), "cpu")
    pairs = pairs_of("00000", SHARDS["00000"])
    lies = [
        Pair(pair.key, pair.jpeg, "a lie", {"split": pair.metadata["split"], "labels": {"object": ["lie"]}})
        for pair in pairs
    ]
    (part,) = captioner.parts()
    assert list(captioner.write(part, pairs, [])) == list(captioner.write(part, lies, []))


def test_a_batch_size_changes_no_caption(layout: Layout) -> None:
    pairs = pairs_of("00000", SHARDS["00000"])
    texts = []
    for size in (1, 4):
        section = ModelCaptioner.model_validate({**TINY, "batch_size": size})
        captioner = FromPixels(section, layout.artifact("base_models"), "cpu")
        (part,) = captioner.parts()
        drafts = captioner.write(part, pairs, [])
        captions = [draft.caption for draft in drafts]
        texts.append({(one.key, one.column): one.text for one in captions})
    assert texts[0] == texts[1]


def test_equal_runs_make_equal_files_and_a_new_captioner_only_its_own(
    smoke: Params, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with(smoke, layout, COLUMNS)
    first = folder_key(layout.artifact("recaption"))
    calls = []
    write = FromColumns.write

    def counted(
        self: FromColumns, part: Part, pairs: Sequence[Pair], captions: Sequence[Caption]
    ) -> Iterator[Draft]:
        calls.append(self.name)
        return write(self, part, pairs, captions)

    monkeypatch.setattr(FromColumns, "write", counted)
    other = {"kind": "columns", "name": "other", "columns": [TAKE | {"column": "third"}]}
    run_with(smoke, layout, COLUMNS, other)
    assert calls == ["other", "other"]
    run_with(smoke, Layout(layout.work_store / "fresh"), COLUMNS)
    assert folder_key(layout.artifact("recaption")) == first


def test_a_stopped_run_keeps_its_finished_shards(
    smoke: Params, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = FromColumns.write
    shards = []

    def stopping(
        self: FromColumns, part: Part, pairs: Sequence[Pair], captions: Sequence[Caption]
    ) -> Iterator[Draft]:
        shards.append(pairs[0].key)
        if len(shards) == 2:
            raise Stopped
        return write(self, part, pairs, captions)

    monkeypatch.setattr(FromColumns, "write", stopping)
    with pytest.raises(Stopped):
        run_with(smoke, layout, COLUMNS)
    assert not layout.artifact("recaption").exists()
    run_with(smoke, layout, COLUMNS)
    assert shards == ["k00000x0", "k00001x0", "k00001x0"]


def test_too_many_empty_captions_stop_the_stage(smoke: Params, layout: Layout) -> None:
    empty = {"kind": "columns", "name": "other", "columns": [TAKE | NOTHING]}
    metrics = run_with(smoke, layout, COLUMNS, empty)
    assert metrics["rejected"] == {"empty": 10}
    with pytest.raises(DataError, match=r"10 of 20 rows rejected \(empty 10\)") as caught:
        run_with(smoke, layout, COLUMNS, empty, share=0.4)
    assert str(caught.value).split("\n")[1:] == [
        "empty: first '', absent of k00000x0, decided by its text: empty, or no caption to take",
        f"every reason with its first row: {layout.work('recaption') / 'rejected.json'}",
    ]


@pytest.mark.parametrize("column", ["alt", "dense"])
def test_a_column_that_is_there_is_not_written_over(smoke: Params, layout: Layout, column: str) -> None:
    clash = {"kind": "columns", "name": "mine", "columns": [TAKE | {"column": column}]}
    with pytest.raises(ConfigurationError, match=f"writes column {column} of"):
        run_with(smoke, layout, clash)


def test_a_column_that_no_row_has_is_named(smoke: Params, layout: Layout) -> None:
    mistyped = {"kind": "columns", "name": "typo", "columns": [TAKE | {"source": "al"}]}
    with pytest.raises(
        ConfigurationError, match="typo reads column al, which no row of .* has; expected .*alt"
    ):
        run_with(smoke, layout, COLUMNS, mistyped)
    assert not layout.artifact("recaption").exists()
    assert not (layout.work("recaption") / "pieces").exists()  # told before any captioner works


def test_a_model_captioner_needs_one_of_base_models(smoke: Params, layout: Layout) -> None:
    made = layout.artifact("base_models")
    for path in (made / "captioner").iterdir():
        path.unlink()
    (made / "captioner").rmdir()
    with pytest.raises(ConfigurationError, match="base_models made no captioner"):
        run_with(smoke, layout, TINY | {"batch_size": 2})


def test_a_damaged_shard_is_refused(smoke: Params, layout: Layout) -> None:
    path = layout.artifact("download") / "shards" / "00001.tar"
    path.write_bytes(path.read_bytes()[:-1024])
    with pytest.raises(DataError, match="damaged"):
        run_with(smoke, layout, COLUMNS)


NOTHING = {"take": "rest_joined", "column": "absent"}  # of one caption nothing is left
