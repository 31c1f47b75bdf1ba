"""Cost of the download stage."""

from __future__ import annotations

from math import ceil

from components.planning.estimate import SECONDS_PER_HOUR, Bound, Estimate, Machine, cpu_bound, network_bound
from components.planning.images import PlannedImages, original_size, planned_images, shard_size
from components.planning.past_throughput import Figure, PastThroughput
from components.settings.params import Params
from components.sources.source_requirements import is_far

BENCH = "`python -m bench.fetch_rates`"
PICTURE = Figure(3.7, f"{BENCH}, pictures of 1024 x 768 pixels over loopback")  # CPU ms, 3.5 to 3.8 in 4 runs
DEAD = Figure(0.5, "the same, urls that answer 404")  # CPU ms, 0.4 to 0.6 in 2 runs
ANSWER = Figure(  # seconds from the request to the last byte, waits for dead hosts included
    1.2, "img2dataset's dataset_examples/cc3m.md: 1,024 threads, 850 rows a second"
)
PARENT_BYTES, PROCESS_BYTES, ROW_BYTES = 294e6, 30e6, 20.6e3
MEMORY = f"0.29 GB, for each process 30 MB and 21 kB a row of its shard: {BENCH}, `python -m bench.rates`"


def plan(params: Params, machine: Machine, measured: PastThroughput) -> Estimate:
    """Estimate the download stage; see `components.planning.estimate`."""
    download = params.download
    images = planned_images(params, measured)
    original, shard_bytes = original_size(images), shard_size(images, download)
    milliseconds, because = _cpu(images)
    cpu_hours = milliseconds / 1000 / SECONDS_PER_HOUR
    bytes_in, bytes_out = images.fetched * original.value, images.images * shard_bytes.value
    moved = bytes_in + (bytes_out if download.data_root else 0)
    shards = ceil(images.rows / download.shard_rows)
    workers = min(machine.cores * machine.machines, shards)
    processes = min(machine.cores, shards)
    connections = download.fetch.connections
    answer = _answer(images, connections)
    waits = images.requests * answer.value / (connections * machine.machines)
    bounds = [cpu_bound(cpu_hours, workers, "CPU")]
    if images.requests:
        bounds += [network_bound(moved, machine, machine.machines)]
        bounds.append(Bound("connections", waits / SECONDS_PER_HOUR))
        because += [
            f"{original.value / 1e3:,.0f} kB a picture are fetched: {original.origin}",
            f"{answer.value:.2g} s a request, with {connections:,} download.fetch.connections: "
            f"{answer.origin}",
        ]
    because += [
        f"{shard_bytes.value / 1e3:,.1f} kB an image are kept: {shard_bytes.origin}",
        f"memory: {MEMORY}",
    ]
    return Estimate(
        rows=images.rows + images.texts,
        unit="rows",
        requests=images.requests,
        bytes_in=Figure(bytes_in, "over the network"),
        bytes_out=Figure(bytes_out, f"to {download.data_root or 'this disk'}"),
        cpu_hours=cpu_hours,
        bounds=bounds,
        memory_bytes=PARENT_BYTES + processes * (PROCESS_BYTES + ROW_BYTES * download.shard_rows),
        because=[*images.because(), *because],
        cautions=_cautions(params, machine, images),
    )


def _answer(images: PlannedImages, connections: int) -> Figure:
    """Return the seconds that a request occupies its connection."""
    if images.run is None:
        return ANSWER
    seconds = images.run.seconds * connections / images.run.rows
    return Figure(seconds, f"{images.run.origin}, if it had as many connections")


def _cpu(images: PlannedImages) -> tuple[float, list[str]]:
    """Return the CPU milliseconds of all rows, and in words where the figures are from."""
    if images.run:
        row_cost = images.run.cpu_per_row
        return images.rows * row_cost.value, [f"{row_cost.value:.2g} CPU ms a row: {row_cost.origin}"]
    dead = images.rows - images.images
    because = [f"{PICTURE.value:g} CPU ms a picture, fetched or local: {PICTURE.origin}"]
    if dead:
        because.append(f"{DEAD.value:g} CPU ms a row without one: {DEAD.origin}; a dead host may cost more")
    return images.images * PICTURE.value + dead * DEAD.value, because


def _cautions(params: Params, machine: Machine, images: PlannedImages) -> list[str]:
    cautions = []
    success_share = images.images / images.rows
    if 1 - success_share > params.download.max_reject_share:
        cautions.append(
            f"{1 - success_share:.0%} of rows would be rejected; download.max_reject_share allows "
            f"{params.download.max_reject_share:.0%}"
        )
    if machine.machines > 1:
        cautions.append(
            "one run uses one machine: for more, give each machine a part of the lists, by path or limit"
        )
    for source in filter(is_far, params.download.sources):
        cautions.append(
            f"the shards of {source.name} are fetched over the network first and stay on this disk until the "
            "stage is done; their bytes are unknown"
        )
    if params.download.retry_rounds and images.requests:
        cautions.append("rows with a transient failure are fetched again, up to download.retry_rounds times")
    return cautions
