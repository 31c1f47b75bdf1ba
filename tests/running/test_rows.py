from __future__ import annotations

import ast
from pathlib import Path

import pytest

from components.errors import DataError
from components.running.rows import RULES, UNKNOWN, Rows, rule
from components.settings.params import Params
from components.storage.atomic import read_json
from components.storage.layout import Layout
from tests.conftest import ROOT


def test_figures_balance_by_reason(smoke: Params, layout: Layout) -> None:
    rows, other = Rows(), Rows()
    rows.accept(8)
    rows.reject("timeout", 2)
    other.reject("empty_caption")
    rows.add(other.figures())
    assert rows.figures() == {"rows_in": 11, "rows_out": 8, "rejected": {"empty_caption": 1, "timeout": 2}}
    rows.check(0.3, "download", smoke, layout, given=11)
    assert not layout.work("download").exists()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


@pytest.mark.parametrize(
    ("limit", "given", "message"), [(0.1, None, "timeout 2"), (1.0, 11, "expected a balance")]
)
def test_limit_and_balance(
    smoke: Params, layout: Layout, limit: float, given: int | None, message: str
) -> None:
    rows = Rows()
    rows.accept(8)
    rows.reject("timeout", 2)
    with pytest.raises(DataError, match=message):
        rows.check(limit, "download", smoke, layout, given=given)


def test_no_row_left_is_a_fault_whatever_the_limit(smoke: Params, layout: Layout) -> None:
    rows = Rows()
    rows.reject("dead", 3)
    with pytest.raises(DataError, match="none of 3 rows is left"):
        rows.check(1.0, "download", smoke, layout)


def test_a_fault_names_param_first_value_and_the_file_of_all_reasons(smoke: Params, layout: Layout) -> None:
    rows = Rows()
    rows.reject("port_not_allowed", 68, "http://a.example:8080/0.jpg of source web")
    rows.reject("port_not_allowed", first="http://a.example:8081/1.jpg of source web")
    rows.reject("unknown_split", 3, "'trian' in list.csv row 7 of source web, http://me:canary@a.example/x")
    rows.reject("http_404", 2)
    counts = ["port_not_allowed", "unknown_split", "http_404", "too_small"]
    rows.reject("too_small", 1, "inputs/mine/images/a.jpg of source mine")
    with pytest.raises(DataError) as caught:
        rows.check(1.0, "download", smoke, layout)
    path = layout.work("download") / "rejected.json"
    split = (
        "train, validation or test in split_column of its entry in download.sources, "
        "or a name that its splits map"
    )
    assert str(caught.value).split("\n") == [
        "download: none of 75 rows is left (port_not_allowed 69, unknown_split 3, http_404 2, too_small 1); "
        "expected at least one",
        "port_not_allowed: first http://a.example:8080/0.jpg of source web, decided by "
        f"download.fetch.allowed_ports {smoke.download.fetch.allowed_ports}; "
        "unknown_split: first 'trian' in list.csv row 7 of source web, http://***@a.example/x, decided by "
        f"{split}; http_404: decided by the server's answer",
        f"every reason with its first row: {path}",
    ]
    account = read_json(path)
    assert "canary" not in path.read_text()
    assert [one["reason"] for one in account["rejected"]] == counts
    assert account["rejected"][3] == {
        "reason": "too_small",
        "count": 1,
        "decided_by": f"download.images.min_side {smoke.download.images.min_side}",
        "first": "inputs/mine/images/a.jpg of source mine",
    }


RAISED = {"Rejected": "download", "Refused": "download"}


def test_every_reason_has_a_rule_and_every_rule_reads_params_that_there_are(smoke: Params) -> None:
    for section, rules in RULES.items():
        for reason in rules:
            assert rule(section, reason, smoke)  # raises where there is no such param
    assert rule("audit", "sharp", smoke).startswith("audit.curation.heads [")
    for path in [
        *(ROOT / "components" / "sources").glob("*.py"),
        *(ROOT / "components" / "download").glob("*.py"),
    ]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in RAISED and node.args:
                for part in ast.walk(node.args[0]):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        section = RAISED[ast.unparse(node.func)]
                        assert rule(section, part.value, smoke) != UNKNOWN, f"{path}: {part.value}"
