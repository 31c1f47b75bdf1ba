"""Detect rows merged by an unbalanced quote."""

from __future__ import annotations

import re
from collections.abc import Sequence

ADDRESS = "://"
FILE = re.compile(r"\w\.[a-z]\w{1,3}$", re.IGNORECASE | re.ASCII)  # ends as cat.jpg does


def looks_swallowed(fields: Sequence[str], place: int, columns: int) -> bool:
    r"""Say whether a field of several lines is more likely rows than one caption.

    The field is read as if its quotes were letters: its first line ends the row that began before it, its
    last line begins the row that goes on behind it. If more than half of these lines are rows, of as many
    fields as the table has and alike in those that no caption is (a url, a file, a number), quotes have
    swallowed them. A table without such a column, above all one of captions alone, gives no evidence.

    Example: the field at place 1 of `["http://a/1", "a cat\nhttp://a/2,a dog"]` with 2 columns is two rows;
    that of `["http://a/1", "A cat.\nNext to it, a dog."]` is one caption.

    Args:
        fields: Of one row as the csv module read it.
        place: That of the field among them.
        columns: Of the table.
    """
    lines = [line.split(",") for line in fields[place].split("\n")]
    lines[0] = [*fields[:place], *lines[0]]
    lines[-1] = [*lines[-1], *fields[place + 1 :]]
    known = {other: _shape(value) for other, value in enumerate(fields) if other != place}
    if len(lines[0]) == columns > 1 and ADDRESS in lines[0][place]:
        known[place] = _shape(lines[0][place])
    names = {other: shape for other, shape in known.items() if not shape[0] and any(shape)}
    rows = sum(
        len(line) == columns and all(_shape(line[other]) == shape for other, shape in names.items())
        for line in lines
    )
    return bool(names) and 2 * rows > len(lines)


def _shape(value: str) -> tuple[bool, bool, bool]:
    """Return whether a value holds white space, digits, and a slash or a file's suffix."""
    return (
        any(map(str.isspace, value)),
        any(map(str.isdigit, value)),
        "/" in value or bool(FILE.search(value)),
    )
