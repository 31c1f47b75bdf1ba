"""Tell whether any draft failed for a reason that may pass."""

from __future__ import annotations

from collections.abc import Sequence

from components.http.retry import MAY_PASS
from components.storage.side_tables import Draft


def may_pass(drafts: Sequence[Draft]) -> bool:
    """Say whether another round may bring a caption that lacks."""
    return any(draft.reason in MAY_PASS for draft in drafts)


def settled(drafts: Sequence[Draft]) -> list[Draft]:
    """Return the drafts of those rows that need not be asked for again."""
    again = {draft.caption.key for draft in drafts if draft.reason in MAY_PASS}
    return [draft for draft in drafts if draft.caption.key not in again]
