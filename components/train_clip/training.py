"""The training of one arm."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.ml.augmentation import augment
from components.ml.contrastive import clip_loss
from components.ml.precision import autocast
from components.running.training import Run, batch_rows, clip_gradients, train, warmup_cosine
from components.settings.train_clip import Arm as ArmSettings
from components.settings.train_clip import TrainClip
from components.train_clip.arms import Arm
from components.train_clip.examples import Examples
from components.train_clip.optimizer import build_optimizer
from components.train_clip.texts import Guide


def train_arm(
    arm: Arm,
    own: ArmSettings,
    examples: Examples,
    guide: Guide | None,
    settings: TrainClip,
    seed: int,
    work: Path,
    identity: dict[str, Any],
) -> list[dict[str, float]]:
    """Train an arm in place, resuming where an earlier run of the same identity stopped.

    Batches, caption columns, captions and augmentation are drawn before anything else at each step, so all
    arms of one seed see the same images with the same captions.

    Args:
        arm: What is trained.
        own: Its params.
        examples: Images and captions.
        guide: Tells which captions are no negatives of each other's images, the same for every arm; None
            where params do not ask.
        settings: Of all arms.
        seed: Of the draws.
        work: The stage's folder in the work store.
        identity: What decides the weights.

    Returns:
        The loss history.
    """
    arm.train()
    device = next(arm.parameters()).device
    optimizer = build_optimizer(arm, own, settings)
    look = settings.augmentation

    def step(number: int) -> Tensor:
        rows = batch_rows(len(examples), settings.batch_size, seed, number)
        captions = examples.mix.draw(rows)
        images = examples.pixels.batch(examples.image_rows[rows])
        images = augment(images, look.min_crop, look.flip, look.colour_jitter).to(device)
        with autocast(device, settings.precision):
            image_embeddings, text_embeddings = arm(images, captions)
        excluded = guide.near(captions, device) if guide else None
        loss = clip_loss(image_embeddings, text_embeddings, arm.log_logit_scale.exp(), excluded)
        optimizer.zero_grad()
        loss.backward()
        _update(own.name, number, arm, optimizer, settings)
        return loss

    run = Run(
        name=own.name,
        modules={"arm": arm},
        optimizer=optimizer,
        learning_rate_at=warmup_cosine(settings.warmup_steps, settings.steps),
        steps=settings.steps,
        step=step,
        seed=seed,
    )
    history = train(run, work, identity, settings.checkpoint_steps)
    arm.eval()
    return history


def _update(name: str, number: int, arm: Arm, optimizer: torch.optim.Optimizer, settings: TrainClip) -> None:
    clip_gradients(name, number, arm.parameters(), settings.max_gradient_norm)
    optimizer.step()
    with torch.no_grad():
        arm.log_logit_scale.clamp_(0, math.log(settings.max_logit_scale))
