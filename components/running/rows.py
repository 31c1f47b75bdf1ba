"""Row accounting: rows in = rows out + rows rejected by reason, exactly."""

from __future__ import annotations

from collections import Counter
from typing import Any

from components.faults import DataFault


class Rows:
    """Counts the rows of one stage."""

    def __init__(self) -> None:
        self.rows_in = 0
        self.rows_out = 0
        self.rejected: Counter[str] = Counter()

    def accept(self, count: int = 1) -> None:
        """Count rows that came in and go on."""
        self.rows_in += count
        self.rows_out += count

    def reject(self, reason: str, count: int = 1) -> None:
        """Count rows that came in and stop here."""
        self.rows_in += count
        self.rejected[reason] += count

    def add(self, tree: dict[str, Any]) -> None:
        """Add the figures of another count, as `figures` gave them."""
        self.rows_in += tree["rows_in"]
        self.rows_out += tree["rows_out"]
        self.rejected.update(tree["rejected"])

    def figures(self) -> dict[str, Any]:
        """Return rows_in, rows_out and rejected by reason, for metrics."""
        return {
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "rejected": dict(sorted(self.rejected.items())),
        }

    def check(self, max_reject_share: float, section: str, given: int | None = None) -> None:
        """Check the balance and the limit.

        Args:
            max_reject_share: Of the rows that came in, 0..1.
            section: The params section the limit stands in, for the message.
            given: Rows that the stage was handed, where that is known apart from the counting.

        Raises:
            DataFault: the figures do not balance, no row is left, or too many were rejected.
        """
        rejected = sum(self.rejected.values())
        if self.rows_in != self.rows_out + rejected or (given is not None and given != self.rows_in):
            raise DataFault(
                f"{section}: {given if given is not None else self.rows_in} rows came in, "
                f"{self.rows_out} went out and {rejected} were rejected: no balance; please report this"
            )
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.rejected.most_common(3))
        if self.rows_out == 0:
            raise DataFault(
                f"{section}: none of {self.rows_in} rows is left ({reasons}); expected at least one"
            )
        if rejected > max_reject_share * self.rows_in:
            raise DataFault(
                f"{section}: {rejected} of {self.rows_in} rows rejected ({reasons}); "
                f"{section}.max_reject_share allows {max_reject_share:g}: mend the input or raise the limit"
            )
