"""AdamW with rates by part and layer."""

from __future__ import annotations

import re

import torch
from torch import nn

from components.settings.train_clip import Arm as ArmSettings
from components.settings.train_clip import TrainClip
from components.train_clip.arms import Arm

EPSILON = 1e-8
BLOCK = re.compile(r"encoder\.layers\.(\d+)\.")
FIRST = ("embeddings.", "pre_layrnorm.")  # transformers spells it so


def build_optimizer(arm: Arm, rates: ArmSettings, settings: TrainClip) -> torch.optim.Optimizer:
    """Return AdamW whose groups carry their peak rate as `peak`.

    The vision tower's rate is multiplied by layer_decay once for each layer above (docs/method.md, 3:
    L + 1 - i); the text side and the logit scale have rates of their own. One-dimensional weights and
    positions are not decayed.
    """
    vision = arm.vision_parameters()
    of_vision = {id(parameter): name for name, parameter in vision.items()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in arm.named_parameters():
        peak = rates.text_learning_rate
        if id(parameter) in of_vision:
            above = arm.vision_layers() + 1 - layer_of(of_vision[id(parameter)], arm.vision_layers())
            peak = rates.vision_learning_rate * settings.layer_decay**above
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
