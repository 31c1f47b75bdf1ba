"""What audit takes."""

from __future__ import annotations

from components.running.planned_images import planned_images
from components.running.planning import (
    SECONDS_PER_HOUR,
    Bound,
    Estimate,
    Figure,
    Machine,
    Measured,
    Run,
    cpu_bound,
    network_bound,
)
from components.running.shard_sizes import shard_size
from components.settings.params import Params

ROWS, GROWTH = "`python -m bench.rates`", "`python -m bench.audit_growth`"
IMAGE = Figure(0.9, ROWS)  # CPU ms, of one of 224 x 224 pixels: decoded whole, hashed, described
CAPTION = Figure(0.02, GROWTH)  # CPU ms
SEARCH_MILLISECONDS = 180e-9  # CPU, times the square of the number of images
BASE_BYTES, IMAGE_BYTES, CAPTION_BYTES = 500e6, 2600.0, 460.0
KEY_BYTES, REPORT_BYTES = 3.0, 5.2e6


def plan(params: Params, machine: Machine, measured: Measured) -> Estimate:
    """Estimate; see `components.running.planning`."""
    images = planned_images(params, measured)
    count = images.images
    captions = images.captions + images.written(params.recaption.captioners)
    run = measured.run("audit", lambda metrics: metrics["images"] if images.run else 0)
    milliseconds, because = _cpu(count, captions, run)
    cpu_hours = milliseconds / 1000 / SECONDS_PER_HOUR
    kept = shard_size(images, params.download)
    bytes_in = count * kept.value
    bounds = [cpu_bound(cpu_hours, 1, "one core")]
    if params.download.data_root:
        bounds.append(network_bound(bytes_in, machine, 1))
    if params.audit.curation.near_images:
        bounds.append(Bound("near images", None, "run a part: its work grows with the square"))
    memory = BASE_BYTES + count * IMAGE_BYTES + captions * CAPTION_BYTES
    return Estimate(
        rows=count,
        unit="images",
        requests=0,
        bytes_in=Figure(bytes_in, f"from {params.download.data_root or 'this disk'}"),
        bytes_out=Figure(REPORT_BYTES + count * KEY_BYTES, "to this disk"),
        cpu_hours=cpu_hours,
        bounds=bounds,
        memory_bytes=memory,
        because=[
            f"{count:,.0f} images: what download keeps; {captions:,.0f} captions: those of recaption as well",
            *because,
            f"{kept.value / 1e3:,.1f} kB an image: see download; written are {KEY_BYTES:g} bytes an image "
            f"and a report of {REPORT_BYTES / 1e6:g} MB: {ROWS}",
            f"memory: 0.5 GB, {IMAGE_BYTES:,.0f} bytes an image, {CAPTION_BYTES:g} a caption: {GROWTH}",
        ],
        cautions=["one process on one machine, all images in memory: more cores and machines do not help"],
    )


def _cpu(count: float, captions: float, run: Run | None) -> tuple[float, list[str]]:
    """Return CPU milliseconds, and in words where they are from."""
    search = SEARCH_MILLISECONDS * count**2
    because = [
        f"{SEARCH_MILLISECONDS * 1e9:g} CPU ps times the square of the images, to find those that look the "
        f"same: {GROWTH}; many plain images, whose hashes are alike, cost more"
    ]
    if run:
        linear = max(0.0, run.cpu_per_row.value - SEARCH_MILLISECONDS * run.rows)
        return count * linear + search, [f"{linear:.2g} CPU ms an image: {run.cpu_per_row.origin}", *because]
    return count * IMAGE.value + captions * CAPTION.value + search, [
        f"{IMAGE.value:g} CPU ms an image: {IMAGE.origin}; {CAPTION.value:g} a caption: {CAPTION.origin}",
        *because,
    ]
