"""Captions that a model wrote for the data set: judged like those of recaption, and what is taken of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from components.recaption.captioners.columns import FromColumns, FromSources
from components.recaption.filters.divide import Filters, RepeatedCaptions
from components.recaption.stage import run
from components.settings.environment import Environment
from components.settings.params import Params, load_params
from components.settings.recaption import CaptionGates, ColumnsCaptioner
from components.settings.sources import CaptionColumn, UrlList, caption_columns
from components.storage.atomic import read_json
from components.storage.layout import Layout
from components.storage.manifest import write_manifest
from components.storage.shards import Pair
from components.storage.side_tables import Caption, Draft
from tests.conftest import ROOT
from tests.pairs import write_pairs
from tests.recaption.project import pairs_of, rejected, with_captioners, written

REFUSED = "I'm sorry, but I cannot describe this image."
CHAT = "USER: What is in the image? ASSISTANT: A dog runs."
CUT = "A dog runs over the"
SAME = "A product on a white background."
GOOD = "A dog runs over the grass."
BY_MODEL: dict[str, Any] = {"by_model": True, "kind": "dense"}
MINE: dict[str, Any] = {
    "kind": "columns",
    "name": "mine",
    "columns": [{"source": "long", "column": "dense", "take": "all", "splits": ["train"]}],
}
GATES: dict[str, Any] = {
    "max_characters": 400,
    "max_repeats": 3,
    "max_repeated_share": 0.5,
    "min_leaked_words": 5,
    "whole_sentences": ["dense"],
    "min_script_share": 0.5,
    "max_images_per_text": {"dense": 3},
}


def source_of(**marks: Any) -> dict[str, Any]:
    caption = {"column": "longSV_captions", "name": "long", "language": "en", **marks}
    return {
        "kind": "url_list", "name": "dreamlip", "path": "list.csv", "sha256": None, "columns": None,
        "key_column": None, "url_column": "url", "sha256_column": None, "split_column": None,
        "split": "train", "captions": [{"column": "raw", "name": "raw", "language": "en"}, caption],
        "limit": None, "weight": None,
    }  # fmt: skip


def caption(key: str, text: str, column: str = "long") -> Caption:
    return Caption(key, "train", column, "en", 0, text, "dreamlip")


@pytest.mark.parametrize("by_model", [True, False])
def test_of_a_thousand_and_four_captions_a_model_keeps_one_and_people_keep_all(by_model: bool) -> None:
    texts = [REFUSED, CHAT, CUT, GOOD, *[SAME] * 1000]
    given = FromSources([UrlList.model_validate(source_of(by_model=by_model, kind="dense"))])
    mine = FromColumns(ColumnsCaptioner.model_validate(MINE), given)
    captions = [caption(f"k{number}", text) for number, text in enumerate(texts)]
    (part,) = mine.parts()
    taken = list(mine.write(part, [Pair(one.key, b"", "", {"split": "train"}) for one in captions], captions))
    crowd = RepeatedCaptions({"dense": 3})
    for captioner, drafts in ((given, given.drafts(captions)), (mine, taken)):
        crowd.add(captioner, drafts)
    judging = Filters(CaptionGates.model_validate(GATES), crowd)
    judging.divide(given, given.drafts(captions))
    judging.divide(mine, taken)
    counts = {
        "rows_in": 1004,
        "rows_out": 1,
        "rejected": {"prompt_leak": 1, "refusal": 1, "same_text": 1000, "truncated": 1},
    }
    expected = {"long": counts, "dense": counts}
    if not by_model:
        expected = {"dense": {"rows_in": 1004, "rows_out": 1004, "rejected": {}}}
    assert judging.figures()["columns"] == expected


@pytest.fixture
def given(layout: Layout) -> Layout:
    """Seven train rows of a source; a model wrote one caption of each, all that the last row has."""
    pairs = []
    texts = [REFUSED, GOOD, SAME, SAME, SAME, SAME, CHAT]
    for number, (pair, text) in enumerate(zip(pairs_of("00000", ["train"] * 7), texts, strict=True)):
        captions = [vars(caption(pair.key, text))]
        captions += [vars(caption(pair.key, "dogs", "raw"))] if number < 6 else []
        captions = [{name: one[name] for name in one if name not in ("key", "split")} for one in captions]
        pairs.append(Pair(pair.key, pair.jpeg, text, {**pair.metadata, "captions": captions}))
    download = layout.artifact("download")
    for old in (download / "shards").iterdir():
        old.unlink()
    write_manifest(download, {"shards/00000.tar": write_pairs(download / "shards" / "00000.tar", pairs)})
    return layout


def run_on(
    smoke: Params, layout: Layout, *captioners: dict[str, Any], share: float = 1.0, **marks: Any
) -> Any:  # noqa: ANN401
    tree = with_captioners(smoke, list(captioners), share, max_images_per_text={"dense": 3}).model_dump()
    tree["download"]["sources"].append(source_of(**marks))
    run(Params.model_validate(tree), Environment(work_store=layout.work_store))
    return read_json(layout.metrics("recaption"))


def test_what_a_gate_refuses_goes_no_further(smoke: Params, given: Layout) -> None:
    metrics = run_on(smoke, given, MINE, **BY_MODEL)
    counts = {"rows_in": 7, "rows_out": 1, "rejected": {"prompt_leak": 1, "refusal": 1, "same_text": 4}}
    assert metrics["columns"] == {"long": counts, "dense": counts}
    assert metrics["captions"] == {"dense": 1, "long": 1, "raw": 6}
    assert (metrics["rows_in"], metrics["rows_out"]) == (14, 2)
    kept = {(one.column, one.key) for one in written(given, "00000")}
    assert {column for column, key in kept if key == "k00000x0"} == {"raw"}
    assert not {column for column, key in kept if key == "k00000x6"}
    assert Counter(one.reason for one in rejected(given, "00000")) == {
        "refusal": 2, "prompt_leak": 2, "same_text": 8,
    }  # fmt: skip


def test_marks_alone_judge_and_need_no_captioner(smoke: Params, given: Layout) -> None:
    assert run_on(smoke, given)["columns"] == {}
    metrics = run_on(smoke, given, **BY_MODEL)
    assert metrics["captions"] == {"long": 1, "raw": 6}
    assert run_on(smoke, given, by_model=True)["columns"]["long"]["rejected"] == {
        "prompt_leak": 1,
        "refusal": 1,
    }


def test_a_mark_has_nothing_written_again(
    smoke: Params, given: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_on(smoke, given, MINE)
    monkeypatch.setattr(FromColumns, "write", None)
    assert run_on(smoke, given, MINE, **BY_MODEL)["columns"]["dense"]["rows_out"] == 1


def test_what_splits_are_taken_from_may_differ() -> None:
    takes = [
        {"source": "long", "column": "dense", "take": "all", "splits": ["train"]},
        {"source": "raw", "column": "dense", "take": "all", "splits": ["test"]},
    ]
    given = FromSources([UrlList.model_validate(source_of(**BY_MODEL))])
    mine = FromColumns(ColumnsCaptioner.model_validate({**MINE, "columns": takes}), given)
    assert (mine.asked("dense", "train").kind, mine.asked("dense", "train").is_answer) == ("dense", True)
    assert (mine.asked("dense", "test").kind, mine.asked("dense", "test").is_answer) == (None, False)
    assert given.drafts([caption("k", SAME), caption("k", SAME, "raw")]) == [Draft(caption("k", SAME))]


def test_marks_that_are_not_set_are_in_no_dump() -> None:
    plain = {"column": "a", "name": "b", "language": "en"}
    assert CaptionColumn.model_validate(plain).model_dump() == plain
    assert CaptionColumn.model_validate({**plain, **BY_MODEL}).model_dump() == {**plain, **BY_MODEL}


@pytest.mark.parametrize("preset", ["cc3m", "cc3m_cc12m", "full"])
def test_presets_say_which_captions_models_wrote(preset: str) -> None:
    columns = caption_columns(load_params(ROOT / "presets" / f"{preset}.yaml").download.sources)
    marks = {name: column.kind for name, column in columns.items() if column.by_model}
    assert marks == {"mllm_short": "short", "mllm_long": "dense"}
