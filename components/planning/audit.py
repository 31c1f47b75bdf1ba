"""Cost of the audit stage."""

from __future__ import annotations

from components.planning.estimate import SECONDS_PER_HOUR, Bound, Estimate, Machine, network_bound
from components.planning.images import planned_images, shard_size
from components.planning.past_throughput import Figure, PastThroughput
from components.settings.params import Params

BENCH, ROWS = "`python -m bench.audit`", "`python -m bench.rates`"
IMAGE = Figure(1.0, f"{BENCH}, JPEGs of 256 pixels and 44 kB")  # CPU ms, start of processes included
# CPU ms, with its share of all other work
CAPTION = Figure(0.014, f"{BENCH}, from 100,000 to 1,000,000 images of three")
BASE_BYTES, CAPTION_BYTES = 520e6, 54.0
KEY_BYTES, REPORT_BYTES = 3.0, 5.2e6


def plan(params: Params, machine: Machine, measured: PastThroughput) -> Estimate:
    """Estimate the audit stage; see `components.planning.estimate`."""
    images = planned_images(params, measured)
    count = images.images
    captions = images.captions_with(params.recaption.captioners)
    image, because = IMAGE, [f"{CAPTION.value:g} CPU ms a caption: {CAPTION.origin}"]
    parallel_ms, serial_ms = count * IMAGE.value, captions * CAPTION.value
    if run := measured.run("audit", lambda metrics: metrics["images"] if images.run else 0):
        image, because = run.cpu_per_row, ["that run does not tell how much of it one core does alone"]
        parallel_ms, serial_ms = count * image.value, 0.0
    shard_bytes = shard_size(images, params.download)
    bytes_in = count * shard_bytes.value
    milliseconds = parallel_ms / machine.cores + serial_ms
    bounds = [Bound("CPU", milliseconds / 1000 / SECONDS_PER_HOUR)]
    if params.download.data_root:
        bounds.append(network_bound(bytes_in, machine, 1))
    curation = params.audit.curation
    if curation.near_images or curation.near_captions:
        bounds.append(Bound("near images", None, "run a part: the work grows with the square"))
    return Estimate(
        rows=count,
        unit="images",
        requests=0,
        bytes_in=Figure(bytes_in, f"from {params.download.data_root or 'this disk'}"),
        bytes_out=Figure(REPORT_BYTES + count * KEY_BYTES, "to this disk"),
        cpu_hours=(parallel_ms + serial_ms) / 1000 / SECONDS_PER_HOUR,
        bounds=bounds,
        memory_bytes=BASE_BYTES + captions * CAPTION_BYTES,
        because=[
            f"{count:,.0f} images, as download keeps; {captions:,.0f} captions, those of recaption included",
            f"{image.value:.2g} CPU ms an image, shared by the cores: {image.origin}",
            *because,
            f"{shard_bytes.value / 1e3:,.1f} kB an image: see download; the output is {KEY_BYTES:g} bytes an "
            f"image and a report of {REPORT_BYTES / 1e6:g} MB: {ROWS}",
            f"memory: {BASE_BYTES / 1e9:g} GB and {CAPTION_BYTES:g} bytes a caption, its share of the image "
            f"included: {BENCH}",
            "many similar images cost more to compare",
        ],
        cautions=["one run is on one machine"],
    )
