"""Gates by numbers worked out by hand; unknown is neither passed nor silent."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest

from components.audit.caption_figures import count_words
from components.audit.gates import gates
from components.audit.host_stats import LEDGER, HostStats, host_of, success_gates
from components.audit.near_duplicates.duplicates import Duplicates
from components.audit.verdict import GateResult, explain, verdict_tree
from components.settings.audit import Audit
from components.settings.params import Params
from components.storage.side_tables import Caption
from tests.audit.conftest import captions_of, images_of, ledger_of

SPLITS = ["train"] * 10 + ["validation"] * 10 + ["test"] * 10
NONE = Duplicates({}, {}, {}, {})


def found(
    limits: Audit,
    splits: list[str] = SPLITS,
    duplicates: Duplicates = NONE,
    texts: tuple[str, ...] = tuple("abcdefghij"),
    failed: int = 0,
    test_texts: tuple[str, ...] = tuple("klmnopqrst"),
) -> dict[str, GateResult]:
    keys = [f"key{number}" for number in range(len(splits))]
    images = images_of(keys, splits)
    rows = [Caption(f"key{n}", "train", "short", "en", 0, text, "t") for n, text in enumerate(texts)]
    rows += [Caption(f"test{n}", "test", "short", "en", 0, text, "t") for n, text in enumerate(test_texts)]
    with TemporaryDirectory() as name:
        captions = captions_of(Path(name), rows, images, limits.samples)
    attempts = HostStats()
    attempts.add(ledger_of(keys, failed), limits.samples)
    return {gate.name: gate for gate in gates(images, duplicates, captions, attempts, limits)}


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
        ({"failed": 10}, "host_success", 30 / 40),
        ({"test_texts": ("A!", "k", "B ", *"lmnopqr")}, "caption_overlap", 2 / 10),
    ],
)
def test_a_figure_beyond_its_limit_fails(
    smoke: Params, rows: dict[str, Any], name: str, figure: float
) -> None:
    update = {"max_repeated_caption_share": 0.9, "max_caption_overlap_share": 0.1}
    limits = smoke.audit.model_copy(
        update={**update, "min_host_rows": 8, "min_host_success_share": 0.9, "min_success_share": 0.9}
    )
    gate = found(limits, **rows)[name]
    assert gate.figure == pytest.approx(figure)
    assert gate.verdict == "failed"
    message = explain([gate], limits, Path("report.html"))
    assert f"{name} is {figure:.4g} of " in message
    assert f"{gate.param} wants" in message
    if gate.samples:
        assert f"such as {ascii(next(iter(gate.samples[0].values())))}" in message
    assert "secret" not in message
    assert "token" not in message


def test_a_host_with_few_rows_is_not_looked_at(smoke: Params) -> None:
    limits = smoke.audit.model_copy(update={"min_host_rows": 1000, "min_host_success_share": 0.9})
    gate = found(limits, failed=3)["host_success"]
    assert gate.verdict == "unknown"
    assert "unknown (no host has 1000 rows)" in gate.sentence()


@pytest.mark.parametrize("url", [None, "cat.jpg", "00000.tar/cat.jpg"])  # drawn; of a folder; of a tar
def test_rows_that_no_host_was_asked_for_have_none(smoke: Params, url: str | None) -> None:
    limits = smoke.audit.model_copy(update={"min_host_success_share": 0.9})
    attempts = HostStats()
    line = {"key": "local", "url": url, "status": "failed_to_resize", "error_message": "too_small"}
    attempts.add(pa.Table.from_pylist([line] * 200, LEDGER), 5)
    assert [gate.name for gate in success_gates(attempts, limits)] == ["success"]
    assert attempts.failures[0] == {"key": "local", "host": None, "reason": "too_small"}


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://user:secret@Example.org:8080/cat.jpg?token=1", "example.org"),
        ("http://[::1", "(no valid url)"),
        ("HTTPS:///cat.jpg", "(no valid url)"),
        ("cat.jpg", None),
        ("photos/2024:08/http.jpg", None),
        ("train/00000.tar/cat.jpg", None),
        ("http://ex\u202eample.org/", "ex\\u202eample.org"),
    ],
)
def test_hosts_are_shown_without_what_stands_beside_them(url: str, host: str | None) -> None:
    assert host_of(url) == host


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
    message = explain(gates_found, smoke.audit, Path("report.html"))
    assert "rows_test is unknown" in message
    for gate in gates_found:  # every gate that stops, not the first alone
        assert (gate.verdict == "passed") != (gate.sentence() in message)


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
