"""Reject a row whose reading fails unexpectedly, and that row alone."""

from __future__ import annotations

import errno
import logging
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from components.errors import PipelineError
from components.sources.row import Rejection, Row
from components.sources.values import Rejected, rejection

PLACES_LOGGED = 10  # of each kind of exception, the first one with its traceback
ERRORS_OF_ONE_FILE = frozenset(
    {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
)
log = logging.getLogger("llm2clip")
_times_seen: Counter[str] = Counter()


@dataclass
class RowDraft:
    """What is known of a row while it is made, which is what a rejection of it says."""

    source: str
    key: str
    split: str
    where: str  # file and line, row or sample
    url: str = ""


def row_or_rejection(draft: RowDraft, make: Callable[[RowDraft], Row]) -> Row | Rejection:
    """Make a row, or reject it by reason, whatever its input holds.

    A file that cannot be opened is `unreadable`. An exception that nobody foresaw is `unexpected`; its place
    and traceback are logged.

    Args:
        draft: What is known so far; `make` adds what it learns.
        make: Returns the row, or raises.

    Raises:
        PipelineError: the source as a whole cannot be read.
        OSError: the machine failed, not this row.
    """
    try:
        return make(draft)
    except Rejected as rejected:
        reason: Rejected | str = rejected
    except (PipelineError, MemoryError):
        raise
    except OSError as error:
        if error.errno not in ERRORS_OF_ONE_FILE:
            raise
        reason = "unreadable"
    except Exception as error:  # one row of a million must not end the stage
        _log_unexpected(draft, error)
        reason = "unexpected"
    return rejection(draft.source, draft.key, draft.split, reason, draft.where, draft.url)


def kind_of(error: Exception) -> str:
    """Return what tells errors that nobody foresaw from one another: their type, and where they came up."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {last.filename}:{last.lineno}"


def _log_unexpected(draft: RowDraft, error: Exception) -> None:
    """Log where an exception came up: the traceback once per kind, and no more than a few rows of a kind."""
    kind = kind_of(error)
    _times_seen[kind] += 1
    if _times_seen[kind] <= PLACES_LOGGED:
        log.warning(
            "source %s: %s is rejected as unexpected (%s: %.200s); please report this",
            draft.source,
            draft.where,
            type(error).__name__,
            error,
            exc_info=error if _times_seen[kind] == 1 else None,
        )
