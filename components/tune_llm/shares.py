"""Divide a batch of texts among processes and chunks."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

from components.errors import ConfigurationError
from components.ml.distributed import share_of, world_size
from components.ml.text.template import Tokens

Row = TypeVar("Row", bound=Tokens)


def check_shares(rows: int, section: str) -> None:
    """Check that a batch divides equally among the processes.

    Raises:
        ConfigurationError: it does not.
    """
    if rows % world_size():
        raise ConfigurationError(
            f"{section}: a batch of {rows} cannot be shared equally by {world_size()} processes; expected a "
            "multiple of their number"
        )


def shared_order(lengths: list[int]) -> list[int]:
    """Return row numbers: the share of the first process, then that of the next, and so on.

    Each process has rows of all lengths, ordered by length, so that a chunk of its share has little padding.

    Raises:
        ValueError: the rows cannot be shared equally.
    """
    share_of(len(lengths))
    by_length = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    return [row for process in range(world_size()) for row in by_length[process :: world_size()]]


def own_parts(rows: list[Row], order: list[int], chunks: int, *, is_lean: bool) -> list[list[Row]]:
    """Return this process's share of a batch, in chunks of texts of about equal length.

    Args:
        rows: The whole batch.
        order: As `shared_order` returns it.
        chunks: Maximum number of chunks; every process has the same number, which sharded models need.
        is_lean: Whether one chunk is in memory at a time. The largest chunk is then as small as possible: few
            long texts or many short ones. Otherwise all chunks have equally many texts.
    """
    share = [rows[row] for row in order[share_of(len(rows))]]
    if is_lean:
        longest = [
            len(rows[row].ids) for row in order[-len(share) :]
        ]  # the last share has the longest text at each index
        ends = _ends(longest, chunks)
    else:
        size = -(-len(share) // chunks)
        ends = [*range(size, len(share), size), len(share)]
    return [share[start:end] for start, end in pairwise([0, *ends])]


def _ends(lengths: list[int], chunks: int) -> list[int]:
    """Split ascending lengths into chunks so that the largest padded chunk has as few tokens as possible."""
    low, high = lengths[-1], len(lengths) * lengths[-1]
    while low < high:
        middle = (low + high) // 2
        if len(_ends_within(lengths, middle)) <= chunks:
            high = middle
        else:
            low = middle + 1
    return _ends_within(lengths, high)


def _ends_within(lengths: list[int], tokens: int) -> list[int]:
    """Split from the longest on; each chunk has as many texts as fit into `tokens` when padded."""
    ends, end = [], len(lengths)
    while end > 0:
        ends.append(end)
        end = max(0, end - tokens // lengths[end - 1])
    return ends[::-1]
