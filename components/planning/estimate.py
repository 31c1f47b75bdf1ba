"""Estimate rows, bytes, hours and memory of a stage.

A stage that can be planned has a file here with `plan(params, machine, measured) -> Estimate`, which is found
by its name and imports no other stage. Rates come from the user's own run if there is one, else from figures
measured by the project; otherwise the plan says that they are unknown.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

from components.planning.past_throughput import Figure, PastThroughput
from components.running.workers import usable_cores
from components.settings.params import Params
from components.storage.layout import STAGES

SECONDS_PER_HOUR = 3600.0
MEGABIT = 125_000.0  # bytes
TERA, BILLION = 1e12, 1e9


@dataclass(frozen=True)
class Machine:
    """The machines of a run; `None` if the user did not say."""

    cores: int
    memory_bytes: float
    gpus: int
    network_bytes_per_second: float | None
    machines: int
    captions_per_second: float | None = None  # of one GPU, or of the endpoint
    gpu_flops: float | None = None  # of one GPU, a second
    llm_weights: float | None = None  # given if the LLM's folder does not exist yet


@dataclass(frozen=True)
class Bound:
    """A lower bound of a stage's wall time; `hours` is None if unknown."""

    name: str
    hours: float | None
    to_know: str = ""  # how the user can make it known


@dataclass(frozen=True)
class Estimate:
    """Cost of one stage.

    Attributes:
        rows: Input rows, in the stage's own unit.
        unit: Unit of the rows, e.g. `images`.
        requests: Lower bound of HTTP requests.
        bytes_in: Bytes read, and from where.
        bytes_out: Bytes written, and to where.
        cpu_hours: Hours on one core; None if unknown.
        bounds: Lower bounds of the wall time; the longest one binds.
        memory_bytes: Memory of the machine that needs most.
        because: Every figure behind the estimate, in words.
        cautions: Limits of the code at this size.
    """

    rows: float
    unit: str
    requests: float
    bytes_in: Figure
    bytes_out: Figure
    cpu_hours: float | None
    bounds: Sequence[Bound]
    memory_bytes: float | None
    because: Sequence[str]
    cautions: Sequence[str] = field(default_factory=tuple)

    @property
    def binding(self) -> Bound | None:
        """The bound that decides the wall time, or None if one of them is unknown."""
        known = [(bound.hours, bound) for bound in self.bounds if bound.hours is not None]
        if not known or len(known) < len(self.bounds):
            return None
        return max(known, key=lambda pair: pair[0])[1]


def machine_of(
    cores: int | None,
    memory_gigabytes: float | None,
    gpus: int,
    network_megabits: float | None,
    machines: int,
    captions_per_second: float | None,
    gpu_teraflops: float | None,
    llm_billions: float | None = None,
) -> Machine:
    """Return the machine that the user described; cores and memory default to this machine's."""
    local_memory = float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        cores=cores or usable_cores(),
        memory_bytes=1e9 * memory_gigabytes if memory_gigabytes else local_memory,
        gpus=gpus,
        network_bytes_per_second=MEGABIT * network_megabits if network_megabits else None,
        machines=machines,
        captions_per_second=captions_per_second,
        gpu_flops=TERA * gpu_teraflops if gpu_teraflops else None,
        llm_weights=BILLION * llm_billions if llm_billions else None,
    )


def plan_stages(params: Params, machine: Machine, measured: PastThroughput) -> dict[str, Estimate]:
    """Return the estimate of every stage that has one, in the order of the pipeline.

    Raises:
        ConfigurationError: the number of rows of a source is unknown.
        DataError: a list, or the costs or metrics of a run, are damaged.
    """
    return {
        stage: importlib.import_module(f"components.planning.{stage}").plan(params, machine, measured)
        for stage in STAGES
        if find_spec(f"components.planning.{stage}")
    }


def cpu_bound(cpu_hours: float | None, workers: float, name: str) -> Bound:
    """Return the wall time of CPU work shared by `workers`."""
    return Bound(name, None if cpu_hours is None else cpu_hours / workers)


def network_bound(count: float, machine: Machine, machines: int) -> Bound:
    """Return the time to move `count` bytes over the network of `machines`."""
    rate = machine.network_bytes_per_second
    if rate is None:
        return Bound("network", None, "give --network-mbit")
    return Bound("network", count / (rate * machines) / SECONDS_PER_HOUR)
