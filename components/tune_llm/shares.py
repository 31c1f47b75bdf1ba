"""How a batch of texts is shared by the processes that train, and a share parted into chunks."""

from __future__ import annotations

from components.faults import ConfigurationFault
from components.ml.distributed import processes, share_of
from components.ml.template import Tokens


def check_shares(rows: int, section: str) -> None:
    """Check that a batch can be shared.

    Raises:
        ConfigurationFault: it cannot.
    """
    if rows % processes():
        raise ConfigurationFault(
            f"{section}: a batch of {rows} cannot be shared equally by {processes()} processes; expected a "
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
    return [row for number in range(processes()) for row in by_length[number :: processes()]]


def own_parts(rows: list[Tokens], order: list[int], chunks: int) -> list[list[Tokens]]:
    """Return this process's share of a batch, in chunks of texts of about equal length."""
    own = [rows[row] for row in order[share_of(len(rows))]]
    size = -(-len(own) // chunks)
    return [own[start : start + size] for start in range(0, len(own), size)]
