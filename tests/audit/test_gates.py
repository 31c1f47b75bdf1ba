"""Gates by numbers worked out by hand; unknown is neither passed nor silent."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from components.audit.captions import Captions, count_words
from components.audit.duplicates import Duplicates
from components.audit.gates import Gate, Images, explain, gates, verdict_tree
from components.settings.audit import Audit
from components.settings.params import Params
from components.storage.side_tables import CAPTIONS, Caption

SPLITS = ["train"] * 10 + ["validation"] * 10 + ["test"] * 10
NONE = Duplicates({}, {}, {}, {})


def found(
    limits: Audit,
    splits: list[str] = SPLITS,
    duplicates: Duplicates = NONE,
    texts: tuple[str, ...] = tuple("abcdefghij"),
    failed: int = 0,
) -> dict[str, Gate]:
    images = Images([f"key{number}" for number in range(len(splits))], splits)
    captions = Captions()
    rows = [Caption(f"key{n}", "train", "short", "en", 0, text, "t") for n, text in enumerate(texts)]
    captions.add(pa.Table.from_pylist([asdict(row) for row in rows], CAPTIONS))
    statuses = ["success"] * len(splits) + ["failed_to_download"] * failed
    return {gate.name: gate for gate in gates(images, duplicates, captions, statuses, limits)}


def test_all_pass_on_clean_rows(smoke: Params) -> None:
    assert {gate.verdict for gate in found(smoke.audit).values()} == {"passed"}


@pytest.mark.parametrize(
    ("rows", "name", "figure"),
    [
        ({"failed": 10}, "success", 30 / 40),
        ({"duplicates": Duplicates({1: 0, 12: 11}, {}, {}, {})}, "exact_duplicates", 2 / 30),
        ({"duplicates": Duplicates({}, {1: 0, 12: 11}, {}, {})}, "near_duplicates", 1 / 10),
        ({"duplicates": Duplicates({}, {}, {0: 20, 1: 20}, {20: 0})}, "leaked", 1 / 10),
        ({"texts": ("a",) * 20}, "repeated_captions", 19 / 20),
        ({"splits": SPLITS[:24]}, "rows_test", 4),
    ],
)
def test_a_figure_beyond_its_limit_fails(
    smoke: Params, rows: dict[str, Any], name: str, figure: float
) -> None:
    limits = smoke.audit.model_copy(update={"max_repeated_caption_share": 0.9})
    gate = found(limits, **rows)[name]
    assert gate.figure == pytest.approx(figure)
    assert gate.verdict == "failed"
    message = explain([gate], limits, Path("report.html"))
    assert f"{name} is {figure:.4g} of " in message
    assert f"{gate.param} wants" in message


def test_samples_name_the_row_and_what_it_is_like(smoke: Params) -> None:
    originals = {number: 0 for number in range(1, 10)}
    gate = found(smoke.audit, duplicates=Duplicates(originals, {}, {}, {}))["exact_duplicates"]
    assert gate.samples[0] == {"key": "key1", "like": "key0"}
    assert len(gate.samples) == smoke.audit.samples


def test_unknown_stops_unless_params_let_it_pass(smoke: Params) -> None:
    gates_found = list(found(smoke.audit, splits=SPLITS[:20]).values())
    verdict = verdict_tree(gates_found, smoke.audit)
    assert verdict["unknown"] == ["rows_test", "leaked"]
    assert (verdict["verdict"], verdict["passed"]) == ("unknown", False)
    lenient = smoke.audit.model_copy(update={"unknown_passes": True})
    verdict = verdict_tree(gates_found, lenient)
    assert (verdict["verdict"], verdict["passed"]) == ("unknown", True)
    assert "rows_test is unknown" in explain(gates_found, smoke.audit, Path("report.html"))


def test_no_caption_at_all_is_unknown(smoke: Params) -> None:
    assert found(smoke.audit, texts=())["repeated_captions"].verdict == "unknown"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a small red circle", 4),
        ("ein grüner Kreis.", 3),
        ("一个红色的圆", 6),
        ("", 0),
        ("two-way\u2028road", 3),
    ],
)
def test_words_are_counted_in_any_script(text: str, words: int) -> None:
    assert count_words(text) == words
