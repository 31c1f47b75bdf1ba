"""Cost of the train_clip stage: disk and memory."""

from __future__ import annotations

from pathlib import Path

from components.planning.estimate import Bound, Estimate, Machine
from components.planning.images import planned_images, shard_size
from components.planning.language_model import config_in, llm_width
from components.planning.past_throughput import Figure, PastThroughput
from components.settings.base_models import FolderModel, MadeClip
from components.settings.params import Params

CHANNELS = 3
HALF_BYTES = 2  # of a number of an embedding
BASE_BYTES = 0.42e9
CAPTION_BYTES = Figure(550.0, "`python -m bench.text_side`, 12 words each, the most of four runs")
ASSUMED_SIDE = 224  # pixels, of CLIP ViT-L/14


def plan(params: Params, machine: Machine, measured: PastThroughput) -> Estimate:
    """Estimate the train_clip stage; see `components.planning.estimate`."""
    images = planned_images(params, measured)
    inputs = measured.layout.inputs(params.download.inputs)
    count = images.images_of({"train"})
    side, width = _side(params, inputs), llm_width(params, inputs)
    settings = params.train_clip
    captions = len(settings.caption_mix) * count
    vectors = captions * width.value * HALF_BYTES
    steps = sorted({arm.steps for arm in settings.arms})
    epochs = [f"{step_count * settings.batch_size / max(count, 1):.1f}" for step_count in steps]
    because = [
        f"{count:,.0f} train images at most: those that download keeps; audit may drop some",
        f"{' and '.join(f'{step_count:,}' for step_count in steps)} steps of {settings.batch_size} are "
        f"{' and '.join(epochs)} epochs",
        f"decoded once to {side.value:.0f} x {side.value:.0f} pixels of {CHANNELS} bytes: {side.origin}",
        f"memory: {BASE_BYTES / 1e9:g} GB and {CAPTION_BYTES.value:g} bytes for each of "
        f"{len(settings.caption_mix)} captions an image: {CAPTION_BYTES.origin}",
        f"their embeddings by the tuned LLM are {vectors / 1e9:,.1f} GB: {width.value:.0f} numbers of "
        f"{HALF_BYTES} bytes each: {width.origin}",
    ]
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
        bounds=[Bound("GPU", None, "run some steps")],
        memory_bytes=BASE_BYTES + captions * CAPTION_BYTES.value,
        because=because,
        cautions=[
            "one GPU: a batch has to fit it; embeddings are read from disk in random order, which is fast if "
            "free memory can cache them",
        ],
    )


def _side(params: Params, inputs: Path) -> Figure:
    clip, picture_size = params.base_models.clip, params.train_clip.augmentation.picture_size
    if picture_size:
        return Figure(picture_size, "train_clip.augmentation.picture_size")
    if isinstance(clip, MadeClip):
        return Figure(clip.image_size, "base_models.clip")
    if isinstance(clip, FolderModel):
        config = config_in(inputs / clip.path)
        side = config.get("vision_config", config).get("image_size")
        if side:
            return Figure(side, clip.path)
    return Figure(ASSUMED_SIDE, "assumed; base_models.clip does not state it")
