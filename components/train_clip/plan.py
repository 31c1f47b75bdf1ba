"""What train_clip takes, as far as anybody knows: disk and memory; its hours on a GPU were never measured."""

from __future__ import annotations

from pathlib import Path

from components.running.planned_images import planned_images
from components.running.planned_llm import config_in, llm_width
from components.running.planning import Bound, Estimate, Figure, Machine, Measured
from components.running.shard_sizes import shard_size
from components.settings.base_models import FolderModel, MadeClip
from components.settings.params import Params

CHANNELS = 3
HALF_BYTES = 2  # of a number of an embedding
ASSUMED_SIDE = 224  # pixels, of CLIP ViT-L/14


def plan(params: Params, machine: Machine, measured: Measured) -> Estimate:
    """Estimate; see `components.running.planning`."""
    images = planned_images(params, measured)
    inputs = measured.layout.inputs(params.download.inputs)
    count = images.images_of({"train"})
    side, width = _side(params, inputs), llm_width(params, inputs)
    columns = len(params.train_clip.caption_mix)
    settings = params.train_clip
    epochs = settings.steps * settings.batch_size / max(count, 1)
    because = [
        f"{count:,.0f} train images at most: what download keeps and audit may drop",
        f"{settings.steps:,} steps of {settings.batch_size} are {epochs:.1f} epochs",
        f"decoded once to {side.value:.0f} x {side.value:.0f} pixels of {CHANNELS} bytes: {side.origin}",
    ]
    if width is None:
        because.append("memory: base_models.llm does not say here how wide its embeddings are")
    else:
        because.append(
            f"memory, of embeddings alone: {columns} captions an image, {width.value:.0f} numbers of "
            f"{HALF_BYTES} bytes each: "
            f"{width.origin}"
        )
    return Estimate(
        rows=count,
        unit="images",
        requests=0,
        bytes_in=Figure(
            images.images * shard_size(images, params.download).value,
            f"from {params.download.data_root or 'this disk'}",
        ),
        bytes_out=Figure(count * CHANNELS * side.value**2, "of decoded pixels to the work store"),
        cpu_hours=None,
        bounds=[Bound("GPU", None, "run some steps and see")],
        memory_bytes=columns * count * width.value * HALF_BYTES if width else None,
        because=because,
        cautions=["one GPU: a batch has to fit it; the embeddings of the caption mix are all in memory"],
    )


def _side(params: Params, inputs: Path) -> Figure:
    clip = params.base_models.clip
    if isinstance(clip, MadeClip):
        return Figure(clip.image_size, "base_models.clip")
    if isinstance(clip, FolderModel):
        config = config_in(inputs / clip.path)
        side = config.get("vision_config", config).get("image_size")
        if side:
            return Figure(side, clip.path)
    return Figure(ASSUMED_SIDE, "assumed, for base_models.clip does not say so here")
