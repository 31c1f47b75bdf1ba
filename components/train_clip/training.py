"""Train one arm."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from components.ml.losses.contrastive import NegativeMask, captions_loss
from components.ml.precision import autocast
from components.ml.schedule import batch_rows, warmup_cosine
from components.ml.vision.augmentation import augment
from components.running.costs import Spent
from components.running.training import TrainingRun, clip_gradients, train
from components.settings.train_clip import Arm as ArmSettings
from components.settings.train_clip import TrainClip
from components.train_clip.arms import Arm
from components.train_clip.examples import Examples
from components.train_clip.texts import CachedTexts, FalseNegativeFilter, PlainTexts
from components.train_clip.validation import MEAN, Validation

FORWARD_AND_BACKWARD = 3  # a backward pass computes twice what the forward pass does
EPSILON = 1e-8
BLOCK = re.compile(r"encoder\.layers\.(\d+)\.")
FIRST = ("embeddings.", "pre_layrnorm.")  # transformers spells it so


@dataclass(frozen=True)
class TrainingBatch:
    """Images and captions of one training step.

    Attributes:
        images: (B, 3, H, W) uint8.
        captions: (B * k + N,) caption numbers: the k of each image, image by image, then N of other images.
        rows: (B,) numbers of the examples.
        negative_rows: (N,) numbers of the examples that the N captions belong to.
    """

    images: Tensor
    captions: Tensor
    rows: Tensor
    negative_rows: Tensor


def draw_batch(
    examples: Examples, arm: ArmSettings, settings: TrainClip, seed: int, step: int
) -> TrainingBatch:
    """Draw a step's batch by torch's global generator, which is seeded by the step.

    The first caption and the augmentation of each image are drawn before anything else. So all arms of one
    seed see the same augmented images, however many captions they take.
    """
    augmentation = settings.augmentation
    rows = batch_rows(len(examples), settings.batch_size, seed, step)
    captions = [examples.mix.draw(rows)]
    images = examples.pixels.batch(examples.image_rows[rows])
    images = augment(
        images, examples.image_size, augmentation.min_crop, augmentation.flip, augmentation.colour_jitter
    )
    captions += [examples.mix.draw(rows) for _ in range(arm.captions_per_image - 1)]
    negative_rows = torch.randint(len(examples), (arm.caption_negatives,))
    negatives = examples.mix.draw(negative_rows)
    return TrainingBatch(
        images, torch.cat([torch.stack(captions, dim=1).flatten(), negatives]), rows, negative_rows
    )


def train_arm(
    arm: Arm,
    arm_settings: ArmSettings,
    examples: Examples,
    texts: CachedTexts | PlainTexts,
    guide: FalseNegativeFilter | None,
    validation: Validation | None,
    settings: TrainClip,
    seed: int,
    work: Path,
    identity: dict[str, Any],
) -> tuple[list[dict[str, float]], Spent]:
    """Train an arm in place, resuming where an earlier run of the same identity stopped.

    Args:
        arm: The model to train.
        arm_settings: Params of this arm.
        examples: Images and captions.
        texts: The captions in the form that the arm takes.
        guide: Finds captions that are not negatives of each other's images, the same for every arm; None
            where params do not ask for it.
        validation: Measures the arm during training; None measures nothing.
        settings: Params of all arms.
        seed: Of the draws.
        work: The stage's folder in the work store.
        identity: What decides the weights.

    Returns:
        The history, with loss, and retrieval on the validation split where it was measured; and the seconds
        that training took, those of earlier runs included.
    """
    arm.train()
    device = next(arm.parameters()).device
    optimizer = build_optimizer(arm, arm_settings, settings)

    def step(number: int) -> Tensor:
        batch = draw_batch(examples, arm_settings, settings, seed, number)
        with autocast(device, settings.precision):
            image_embeddings = arm.embed_images(batch.images.to(device))
            text_embeddings = arm.embed_texts(texts[batch.captions])  # type: ignore[arg-type]
        scale = arm.log_logit_scale.exp()
        excluded = _negative_mask(batch, arm_settings.captions_per_image, guide, device)
        loss = captions_loss(
            image_embeddings, text_embeddings, scale, arm_settings.captions_per_image, excluded
        )
        optimizer.zero_grad()
        loss.backward()
        _update(arm_settings, number, arm, optimizer, settings)
        return loss

    run = TrainingRun(
        name=arm_settings.name,
        modules={"arm": arm},
        optimizer=optimizer,
        learning_rate_at=warmup_cosine(settings.warmup_steps, arm_settings.steps),
        steps=arm_settings.steps,
        step=step,
        seed=seed,
        measure=partial(validation.measure, arm) if validation else None,
        measure_steps=settings.validation.steps or 0,
        best_by=MEAN if settings.validation.keep == "best" else None,
    )
    history = train(run, work, identity, settings.checkpoint_steps)
    arm.eval()
    return history, run.spent


@torch.no_grad()
def flops_of_step(
    arm: Arm,
    arm_settings: ArmSettings,
    examples: Examples,
    texts: CachedTexts | PlainTexts,
    settings: TrainClip,
    seed: int,
) -> int:
    """Return the floating-point operations of the first step's towers, forward and backward.

    Matrix products and convolutions are counted, as torch does. The figure is equal in every run.
    """
    torch.manual_seed(seed)
    batch = draw_batch(examples, arm_settings, settings, seed, 0)
    device = next(arm.parameters()).device
    arm.eval()  # counting must not change the statistics of a batch
    with FlopCounterMode(display=False) as counter:
        arm.embed_images(batch.images.to(device))
        arm.embed_texts(texts[batch.captions])  # type: ignore[arg-type]
    return FORWARD_AND_BACKWARD * int(counter.get_total_flops())


def _negative_mask(
    batch: TrainingBatch, captions_each: int, guide: FalseNegativeFilter | None, device: torch.device
) -> NegativeMask | None:
    """Mask captions that are not negatives of an image: those that the guide finds near, and its own.

    An image occurs once in a batch, so only one of the N further captions can be another of its own.
    """
    excluded = guide.near(batch.captions, device) if guide else None
    if not len(batch.negative_rows):
        return excluded
    owners = torch.cat([batch.rows.repeat_interleave(captions_each), batch.negative_rows])
    return replace(
        excluded or NegativeMask(),
        identities=batch.rows[:, None].to(device),
        candidate_identities=owners[:, None].to(device),
    )


def _update(
    arm_settings: ArmSettings, step: int, arm: Arm, optimizer: torch.optim.Optimizer, settings: TrainClip
) -> None:
    clip_gradients(arm_settings.name, step, arm.parameters(), settings.max_gradient_norm)
    optimizer.step()
    with torch.no_grad():
        arm.log_logit_scale.clamp_(0, math.log(arm_settings.logit_scale.maximum))


def build_optimizer(arm: Arm, rates: ArmSettings, settings: TrainClip) -> torch.optim.Optimizer:
    """Return AdamW whose groups carry their peak rate as `peak`.

    The vision tower's rate is multiplied by layer_decay once for each layer above (docs/method.md, 3:
    L + 1 - i); the text side and the logit scale have rates of their own. One-dimensional weights and
    positions are not decayed.
    """
    vision = arm.vision_parameters()
    vision_names = {id(parameter): name for name, parameter in vision.items()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in arm.named_parameters():
        peak = rates.text_learning_rate
        if id(parameter) in vision_names:
            layers_above = (
                arm.vision_layers() + 1 - layer_of(vision_names[id(parameter)], arm.vision_layers())
            )
            peak = rates.vision_learning_rate * settings.layer_decay**layers_above
        elif parameter is arm.log_logit_scale:
            peak = rates.logit_scale.learning_rate
        decay = settings.weight_decay if _is_decayed(name, parameter) else 0.0
        groups.setdefault((peak, decay), []).append(parameter)
    first, second = settings.betas
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": peak, "peak": peak, "weight_decay": decay}
            for (peak, decay), parameters in groups.items()
        ],
        betas=(first, second),
        eps=EPSILON,
        fused=True,  # one pass over the weights
    )


def layer_of(name: str, layers: int) -> int:
    """Return the depth of a vision parameter: 0 before the first block, layers + 1 after the last."""
    if match := BLOCK.search(name):
        return int(match[1]) + 1
    return 0 if any(part in name for part in FIRST) else layers + 1


def _is_decayed(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and not name.endswith("bias") and "position_embedding" not in name
