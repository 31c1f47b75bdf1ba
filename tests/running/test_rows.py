from __future__ import annotations

import pytest

from components.faults import DataFault
from components.running.rows import Rows


def test_figures_balance_by_reason() -> None:
    rows, other = Rows(), Rows()
    rows.accept(8)
    rows.reject("timeout", 2)
    other.reject("empty_caption")
    rows.add(other.figures())
    assert rows.figures() == {"rows_in": 11, "rows_out": 8, "rejected": {"empty_caption": 1, "timeout": 2}}
    rows.check(0.3, "download", given=11)


@pytest.mark.parametrize(("limit", "given", "message"), [(0.1, None, "timeout 2"), (1.0, 11, "no balance")])
def test_limit_and_balance(limit: float, given: int | None, message: str) -> None:
    rows = Rows()
    rows.accept(8)
    rows.reject("timeout", 2)
    with pytest.raises(DataFault, match=message):
        rows.check(limit, "download", given)


def test_no_row_left_is_a_fault_whatever_the_limit() -> None:
    rows = Rows()
    rows.reject("dead", 3)
    with pytest.raises(DataFault, match="none of 3 rows is left"):
        rows.check(1.0, "download")
