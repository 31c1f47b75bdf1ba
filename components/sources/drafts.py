"""Turn an error in one row into a rejection of that row."""

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

PLACES_LOGGED = 10  # rows logged per kind of exception, the first with its traceback
ERRORS_OF_ONE_FILE = frozenset(
    {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
)
log = logging.getLogger("llm2clip")
_times_seen: Counter[str] = Counter()


@dataclass
class RowDraft:
    """What is known about a row so far; a rejection of the row reports these fields."""

    source: str
    key: str
    split: str
    where: str  # file and line, row or sample
    url: str = ""


def row_or_rejection(draft: RowDraft, make: Callable[[RowDraft], Row]) -> Row | Rejection:
    """Make a row, or reject it with a reason, whatever its input holds.

    A file that cannot be opened is `unreadable`. Any other exception is `unexpected`; the row and the
    traceback are logged.

    Args:
        draft: What is known so far; `make` fills in what it finds out.
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
    """Return the kind of an unexpected error: its type, and the file and line that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {last.filename}:{last.lineno}"


def _log_unexpected(draft: RowDraft, error: Exception) -> None:
    """Log an unexpected exception: the traceback once per kind, and only the first few rows of a kind."""
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
