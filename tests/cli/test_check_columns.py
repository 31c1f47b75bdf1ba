"""Each caption column that params read is followed from the sources through recaption to its readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.cli.caption_groups import Column, Group, groups_of_rows, possible_groups, with_captioners
from components.cli.check_columns import check_columns
from components.cli.check_gates import check_release
from components.settings.params import Params, load_params
from components.sources.rows import Row, read_rows
from tests.project import ROOT
from tests.sources.reading import texts
from tests.sources.test_annotations import karpathy

Tree = dict[str, Any]
SHORT_SPLITS = ["train", "validation"]


def promised(params: Params) -> list[Group]:
    return [group for source in params.download.sources for group in possible_groups(source, None)]


def told(params: Params) -> list[str]:
    """Return the problems, each with the keys of its param below the section."""
    problems = [*check_columns(params, promised(params)), *check_release(params)]
    return [f"{'.'.join(map(str, problem.location))}: {problem.text}" for problem in problems]


@pytest.mark.parametrize("path", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_preset_reads_columns_that_are_written(path: Path) -> None:
    assert told(load_params(path)) == []


def mistype(tree: Tree) -> None:
    """Name a column that nothing writes in every place that reads one."""
    tree["recaption"]["scores"]["columns"] = ["alt", "tiny_shrt"]
    tree["audit"]["curation"]["similarity"] = {
        "columns": ["tiny_dense"], "min_similarity": 0.1, "best_share": None,
    }  # fmt: skip
    pairs = tree["tune_llm"]["phases"][0]["pairs"]
    pairs[0] |= {"first": "shrt", "negative": "wrong"}
    pairs[1] |= {"second": "unread", "weight": 0.0}
    tree["tune_llm"]["caption_retrieval"][0]["second"] = "densse"
    tree["tune_llm"]["mntp"] = {
        "columns": ["alt", "altt"], "steps": 1, "batch_size": 1, "learning_rate": 0.1, "warmup_steps": 0,
        "masked_share": 0.2, "mask": "_",
    }  # fmt: skip
    tree["train_clip"]["caption_mix"] = {"alt": 1.0, "short": 0.0, "tiny_shrot": 0.5}
    tree["train_clip"]["validation"] = {
        "steps": 2, "recall_at": 1, "keep": "last",
        "retrieval": [{"name": "a", "column": "shor", "language": "en"}],
    }  # fmt: skip
    tree["evaluate"]["retrieval"][0]["column"] = "tiny_short"
    tree["evaluate"]["retrieval"][2]["language"] = "fr"
    tree["evaluate"]["caption_retrieval"][0]["first"] = "sort"
    tree["evaluate"]["zero_shot"][0]["label"] = "objects"
    tree["register"]["gates"][0]["metric"] = "arms.llm2clip.retrieval.dens.text_to_image.recall_at_1.value"


def test_all_that_is_read_and_not_written_is_told_at_once(smoke: Params) -> None:
    tree = smoke.model_dump()
    mistype(tree)
    scenes = "alt, dense, dense_de, short, short_de"
    images = "alt, dense, dense_de, short, short_de, tiny_dense, tiny_short"
    assert told(Params.model_validate(tree)) == [
        f"recaption.scores.columns.1: tiny_shrt is no caption column of images; there are {images}: did you "
        "mean tiny_short?",
        "audit.curation.similarity.columns.0: tiny_dense gets no similarity; recaption.scores gives alt, "
        "tiny_shrt: did you mean tiny_shrt?",
        "tune_llm.phases.0.pairs.0.first: no row of split train has a caption column shrt; there are "
        f"{images}: did you mean short?",
        f"tune_llm.phases.0.pairs.0.negative: no row of split train has a caption column wrong; there are "
        f"{images}: name one of them",
        f"tune_llm.mntp.columns.1: no row of split train has a caption column altt; there are {images}: did "
        "you mean alt?",
        f"tune_llm.caption_retrieval.0.second: no row of split validation has a caption column densse; there "
        f"are {images}: did you mean dense?",
        "train_clip.caption_mix.short: no image of split train has a caption column short; there are alt, "
        "tiny_dense, tiny_short: did you mean tiny_short?",
        "train_clip.caption_mix.tiny_shrot: no image of split train has a caption column tiny_shrot; there "
        "are alt, tiny_dense, tiny_short: did you mean tiny_short?",
        f"train_clip.validation.retrieval.0.column: no image of split validation has a caption column shor; "
        f"there are {images}: did you mean short?",
        f"evaluate.retrieval.0.column: no image of split test has a caption column tiny_short; there are "
        f"{scenes}: did you mean short?",
        "evaluate.retrieval.2.language: no image of split test has captions short_de in fr; they are in de: "
        "fix the language",
        f"evaluate.caption_retrieval.0.first: no image of split test has a caption column sort; there are "
        f"{scenes}: did you mean short?",
        "evaluate.zero_shot.0.label: no test image has a label objects; there are background, object: did "
        "you mean object?",
        "register.gates.0.metric: evaluate writes no figure "
        "arms.llm2clip.retrieval.dens.text_to_image.recall_at_1.value: did you mean "
        "arms.llm2clip.retrieval.dense.text_to_image.recall_at_1.value?",
    ]


def test_columns_are_followed_through_captioners(smoke: Params) -> None:
    takes = [
        {"source": "raw", "column": "one", "take": "one_by_key", "splits": ["train", "validation"]},
        {"source": "raw", "column": "all", "take": "all", "splits": ["train", "test"]},
        {"source": "one", "column": "again", "take": "first", "splits": ["train"]},  # no column of a source
    ]
    tree = smoke.model_dump()
    tree["recaption"]["captioners"] = [{"kind": "columns", "name": "mine", "columns": takes}]
    params = Params.model_validate(tree)
    groups = possible_groups(karpathy(splits={"train": "train", "test": "test"}), None)
    after = {group.split: group.columns for group in with_captioners(groups, params.recaption)}
    given, english = Column(frozenset({"en"}), is_list=True), frozenset({"en"})
    assert after == {
        "test": {"raw": given, "all": Column(english, is_list=True, is_given=False)},
        "train": {
            "raw": given,
            "one": Column(english, is_list=False, is_given=False),
            "all": Column(english, is_list=True, is_given=False),
        },
    }
    lacking = [
        one for one in check_columns(params, groups) if one.location[:2] == ("recaption", "captioners")
    ]
    assert [problem.location[2:] for problem in lacking] == [(0, "columns", 2, "source")]
    assert lacking[0].text.endswith("has a caption column one; there are raw: name one of them")


def test_a_column_of_two_writers_is_told(smoke: Params) -> None:
    tree = smoke.model_dump()
    tree["recaption"]["captioners"] += [
        {"kind": "columns", "name": "mine", "columns": [
            {"source": "alt", "column": "alt", "take": "all", "splits": ["train"]},
            {"source": "alt", "column": "tiny_short", "take": "all", "splits": ["train"]},
        ]}
    ]  # fmt: skip
    there = [one for one in told(Params.model_validate(tree)) if "writes column" in one]
    assert there == [
        "recaption.captioners.1: writes column alt of train, which a source already gives; expected a column "
        "of its own: give it another name",
        "recaption.captioners.1: writes column tiny_short of train, which captioner tiny already gives; "
        "expected a column of its own: give it another name",
    ]


def no_images(tree: Tree) -> None:
    tree["download"]["sources"][0]["counts"] = {"train": 0, "validation": 0, "test": 0}
    tree["download"]["sources"][1]["counts"] |= {"validation": 0}


def few(tree: Tree) -> None:
    tree["download"]["sources"][0]["counts"] |= {"train": 5, "validation": 1}
    tree["download"]["sources"][1]["counts"] = {"train": 3, "validation": 0, "test": 0}
    tree["base_models"]["captioner"]["training"]["batch_size"] = 10_000


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            no_images,
            [
                "download.sources: no source gives images of split train, which train_clip learns from; add",
                "download.sources: no source gives images of split test, which evaluate measures on; add one",
                "download.sources: no source gives captions of split validation, which tune_llm measures on;",
                "download.sources: no source gives images of split validation, which train_clip measures on;",
                "evaluate.zero_shot.0.label: no test image has a label object; there are none: remove",
            ],
        ),
        (
            few,
            [
                "tune_llm.caption_retrieval.0: 1 rows of split validation have captions of short and dense; "
                "expected 2 or more",
                "tune_llm.caption_retrieval.1: 1 rows of split validation",
                "tune_llm.phases.0.batch_size: a batch of 16 is more than the 3 rows with such a pair of "
                "split train; expected no more: lower it, or bring more data",
                "train_clip.batch_size: a batch of 16 is more than the 5 images of split train; expected no",
                "base_models.captioner.training.batch_size: a batch of 10,000 is more than the ",
            ],
        ),
    ],
)  # fmt: skip
def test_rows_that_are_counted_must_suffice(
    smoke: Params, change: Callable[[Tree], None], expected: list[str]
) -> None:
    tree = smoke.model_dump()
    tree["tune_llm"]["phases"] = tree["tune_llm"]["phases"][:1]
    tree["tune_llm"]["phases"][0]["batch_size"] = tree["train_clip"]["batch_size"] = 16
    change(tree)
    lines = told(Params.model_validate(tree))
    assert len(lines) == len(expected)
    for line, beginning in zip(lines, expected, strict=True):
        assert line.startswith(beginning)


def test_rows_that_are_all_known_say_which_columns_stand_together(tmp_path: Path, smoke: Params) -> None:
    (tmp_path / "t.jsonl").write_text(
        '{"caption": ["a", "b"], "part": "train"}\n{"caption": "c", "part": "validation"}\n'
    )
    source = texts("t.jsonl", split=None, split_column="part")
    rows = [row for row in read_rows(source, tmp_path, 1) if isinstance(row, Row)]
    english = frozenset({"en"})
    assert groups_of_rows(source, rows) == [
        Group("train", False, {"alt": Column(english, is_list=True)}, 1),
        Group("validation", False, {"alt": Column(english, is_list=False)}, 1),
    ]
    assert [group.has_pair("alt", "alt") for group in groups_of_rows(source, rows)] == [True, False]
    assert [group.split for group in possible_groups(source, 2)] == ["test", "train", "validation"]
