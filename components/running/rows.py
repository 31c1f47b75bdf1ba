"""Row accounting: rows in = rows out + rows rejected by reason, exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from components.errors import DataError
from components.running.reasons import explained
from components.settings.params import Params
from components.storage.layout import Layout


class Rows:
    """Counts the rows of one stage.

    Attributes:
        rows_in: Rows that came in.
        rows_out: Those that go on.
        rejected: The others by reason.
        firsts: By reason what its first row was, for messages; no metric holds it.
    """

    def __init__(self) -> None:
        self.rows_in = 0
        self.rows_out = 0
        self.rejected: Counter[str] = Counter()
        self.firsts: dict[str, str] = {}

    def accept(self, count: int = 1) -> None:
        """Count rows that came in and go on."""
        self.rows_in += count
        self.rows_out += count

    def reject(self, reason: str, count: int = 1, first: str = "") -> None:
        """Count rows that came in and stop here; `first` says which row or value the first of them is."""
        self.rows_in += count
        self.rejected[reason] += count
        if first:
            self.firsts.setdefault(reason, first)

    def add(self, tree: dict[str, Any], firsts: Mapping[str, str] | None = None) -> None:
        """Add the figures of another count, as `figures` gave them, and its first rows."""
        self.firsts = {**(firsts or {}), **self.firsts}
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

    def exceeds(self, max_reject_share: float) -> bool:
        """Say whether no row is left, or more than this share of them were rejected."""
        return self.rows_out == 0 or sum(self.rejected.values()) > max_reject_share * self.rows_in

    def check(
        self,
        max_reject_share: float,
        section: str,
        params: Params,
        layout: Layout,
        *,
        given: int | None = None,
        stage: str = "",
    ) -> None:
        """Check the balance and the limit.

        Args:
            max_reject_share: Of the rows that came in, 0..1.
            section: The params section the limit stands in, for the message.
            params: Whose values decide; the message names them.
            layout: Of the project; all reasons go to a file in the stage's work folder.
            given: Rows that the stage was handed, where that is known apart from the counting.
            stage: Where it has another name than the section.

        Raises:
            DataError: the figures do not balance, no row is left, or too many were rejected.
        """
        rejected = sum(self.rejected.values())
        if self.rows_in != self.rows_out + rejected or (given is not None and given != self.rows_in):
            raise DataError(
                f"{section}: {given if given is not None else self.rows_in} rows came in, "
                f"{self.rows_out} went out and {rejected} were rejected: no balance; please report this"
            )
        if not self.exceeds(max_reject_share):
            return
        counts = dict(self.rejected.most_common())
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts.items())
        account = explained(section, counts, self.firsts, params, layout, stage or section) if counts else ""
        if self.rows_out == 0:
            raise DataError(
                f"{section}: none of {self.rows_in} rows is left ({reasons}); expected at least one{account}"
            )
        raise DataError(
            f"{section}: {rejected} of {self.rows_in} rows rejected ({reasons}); "
            f"{section}.max_reject_share allows {max_reject_share:g}: "
            f"correct the input or raise the limit{account}"
        )
