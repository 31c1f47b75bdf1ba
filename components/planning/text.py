"""Format a plan: a few lines for each stage, with the origin of every figure."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap

from components.planning.estimate import Bound, Estimate, Machine

WIDTH = 110
UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
UNKNOWN = "unknown"
MEASURED = (
    "Figures of `python -m bench...` are CPU time on shared cores of an AMD EPYC (AVX-512), measured on "
    "2026-11-25 and 26. On another machine run a part of the data first: once 10,000 rows are through a "
    "stage, its own figures are used. The start of a stage is not included."
)


def plan_lines(preset: str, machine: Machine, estimates: Mapping[str, Estimate]) -> list[str]:
    """Return the lines of a plan."""
    lines = [f"plan of {preset} on {_machine(machine)}"]
    for stage, estimate in estimates.items():
        lines += ["", *_stage(stage, estimate, machine)]
    if any("bench." in line for line in lines):
        lines += ["", *wrap(MEASURED, WIDTH)]
    return lines


def _stage(stage: str, estimate: Estimate, machine: Machine) -> list[str]:
    needed = estimate.memory_bytes
    short = needed is not None and needed > machine.memory_bytes
    memory = UNKNOWN if needed is None else f"{_bytes(needed)} a machine"
    rows = [
        (estimate.unit, f"{estimate.rows:,.0f}"),
        ("requests", f"{estimate.requests:,.0f} or more"),
        ("in", f"{_bytes(estimate.bytes_in.value)} {estimate.bytes_in.origin}"),
        ("out", f"{_bytes(estimate.bytes_out.value)} {estimate.bytes_out.origin}"),
        ("CPU", f"{_hours(estimate.cpu_hours)} on one core"),
        ("wall", _wall(estimate)),
        ("memory", f"{memory}{', more than it has' if short else ''}"),
    ]
    absent = {
        "requests": not estimate.requests,
        "in": not estimate.bytes_in.value,
        "CPU": estimate.cpu_hours is None,
    }
    rows = [row for row in rows if not absent.get(row[0])]
    rows += [("note", caution) for caution in estimate.cautions]
    rows += [("from", reason) for reason in estimate.because]
    return [stage, *(line for name, text in rows for line in _wrapped(name, text))]


def _wrapped(name: str, text: str) -> list[str]:
    return wrap(
        text, WIDTH, initial_indent=f"  {name:<9}", subsequent_indent=" " * 13, break_on_hyphens=False
    )


def _wall(estimate: Estimate) -> str:
    binding = estimate.binding
    parts = "; ".join(_part(bound) for bound in estimate.bounds)
    if binding is None:
        known = [bound.hours for bound in estimate.bounds if bound.hours is not None]
        at_least = f", at least {_hours(max(known))}" if known else ""
        return f"{UNKNOWN}{at_least} ({parts})"
    beside = f" ({parts})" if len(estimate.bounds) > 1 else ""
    return f"{_hours(binding.hours)}, bound by {binding.name}{beside}"


def _part(bound: Bound) -> str:
    return f"{bound.name} {_hours(bound.hours)}" + (f": {bound.to_know}" if bound.to_know else "")


def _machine(machine: Machine) -> str:
    count = "1 machine" if machine.machines == 1 else f"{machine.machines} machines"
    rate = machine.network_bytes_per_second
    parts = [
        f"{machine.cores} cores",
        f"{_bytes(machine.memory_bytes)} of memory",
        f"{machine.gpus} GPUs" if machine.gpus != 1 else "1 GPU",
        "network unknown (give --network-mbit)" if rate is None else f"{rate / 125_000:,.0f} Mbit/s",
    ]
    return f"{count} of {', '.join(parts)}"


def _bytes(count: float) -> str:
    for unit, name in UNITS:
        if count >= unit:
            return f"{_digits(count / unit)} {name}"
    return f"{count:.0f} bytes"


def _hours(hours: float | None) -> str:
    if hours is None:
        return UNKNOWN
    if hours < 1:
        return f"{_digits(hours * 60)} min"
    return f"{_digits(hours)} h"


def _digits(value: float) -> str:
    """Format with three digits; no estimate is more accurate."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
