"""Bytes of an image as it comes and as download keeps it."""

from __future__ import annotations

from components.planning.images import PlannedImages
from components.planning.past_throughput import Figure
from components.settings.download import Download

PICTURE_BYTES = Figure(
    157e3, "assumed, as `python -m bench.fetch_rates` serves: 1024 x 768 pixels at 1.6 bits each"
)
MEASURED_SIZE, MEASURED_QUALITY = 256, 95
JPEG_BYTES = 30.4e3  # of 200 photographs, most of 400 to 640 pixels
TEXT_BYTES = 4.1e3  # of tar headers, ledger fields and three captions as long as DreamLIP's


def original_size(images: PlannedImages) -> Figure:
    """Return the bytes of an image that comes over HTTP."""
    if images.run:
        figures = images.run.metrics["images"]
        if figures.get("original_bytes"):
            return Figure(figures["original_bytes"] / figures["rows_out"], images.run.origin)
    return PICTURE_BYTES


def shard_size(images: PlannedImages, download: Download) -> Figure:
    """Return the bytes of an image in a shard, its captions with it."""
    if images.run:
        figures = images.run.metrics["images"]
        if figures.get("shard_bytes"):
            return Figure(figures["shard_bytes"] / figures["rows_out"], images.run.origin)
    size, quality = download.images.size, download.images.jpeg_quality
    origin = (
        f"{JPEG_BYTES / 1e3:g} kB of a JPEG of {MEASURED_SIZE} pixels and quality {MEASURED_QUALITY} "
        f"(200 photographs of COCO and Flickr8k), {TEXT_BYTES / 1e3:g} kB beside it: "
        "`python -m bench.fetch_rates`"
    )
    if size != MEASURED_SIZE:
        origin += f"; taken to grow with the area to {size} pixels"
    if quality != MEASURED_QUALITY:
        origin += f"; quality {quality} was not measured"
    return Figure(JPEG_BYTES * (size / MEASURED_SIZE) ** 2 + TEXT_BYTES, origin)
