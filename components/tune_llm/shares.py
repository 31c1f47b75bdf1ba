"""Divide a batch of texts among processes and chunks."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

from components.errors import ConfigurationError
from components.ml.distributed import share_of, world_size
from components.ml.text.template import Tokens

Row = TypeVar("Row", bound=Tokens)


def check_shares(rows: int, section: str) -> None:
    """Check that a batch can be shared.

    Raises:
        ConfigurationError: it cannot.
    """
    if rows % world_size():
        raise ConfigurationError(
            f"{section}: a batch of {rows} cannot be shared equally by {world_size()} processes; expected a "
            "multiple of their number"
        )


def shared_order(lengths: list[int]) -> list[int]:
    """Return row numbers, the share of each process behind that of the one before.

    Each process has rows of all lengths, ordered by length, so that a chunk of its share has little padding.

    Raises:
        ValueError: the rows cannot be shared equally.
    """
    share_of(len(lengths))
    by_length = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    return [row for number in range(world_size()) for row in by_length[number :: world_size()]]


def own_parts(rows: list[Row], order: list[int], chunks: int, *, is_lean: bool) -> list[list[Row]]:
    """Return this process's share of a batch, in chunks of texts of about equal length.

    Args:
        rows: The whole batch.
        order: As `shared_order` returns it.
        chunks: At most so many; every process has as many as the others, which models that are spread over
            all need.
        is_lean: Whether one chunk is in memory at a time. The largest is then as small as can be: few long
            texts or many short ones. Otherwise each has as many texts.
    """
    own = [rows[row] for row in order[share_of(len(rows))]]
    if is_lean:
        longest = [len(rows[row].ids) for row in order[-len(own) :]]  # at its place in any share
        ends = _ends(longest, chunks)
    else:
        size = -(-len(own) // chunks)
        ends = [*range(size, len(own), size), len(own)]
    return [own[start:end] for start, end in pairwise([0, *ends])]


def _ends(lengths: list[int], chunks: int) -> list[int]:
    """Part rising lengths into runs so that the largest, padded, has the fewest tokens that are possible."""
    fewest, most = lengths[-1], len(lengths) * lengths[-1]
    while fewest < most:
        middle = (fewest + most) // 2
        if len(_ends_within(lengths, middle)) <= chunks:
            most = middle
        else:
            fewest = middle + 1
    return _ends_within(lengths, most)


def _ends_within(lengths: list[int], tokens: int) -> list[int]:
    """Part them, from the longest on, into runs that are as long as `tokens` lets them be."""
    ends, end = [], len(lengths)
    while end > 0:
        ends.append(end)
        end = max(0, end - tokens // lengths[end - 1])
    return ends[::-1]
