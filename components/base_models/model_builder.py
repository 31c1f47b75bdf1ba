"""Cache and train the models of this stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.ml.schedule import warmup_cosine
from components.running.rows import Rows
from components.running.training import TrainingRun, train
from components.settings.base_models import Schedule
from components.storage.atomic import content_key, write_json
from components.storage.computed import code_of
from components.storage.result_cache import get_or_build

BETAS = (0.9, 0.98)  # the second one as in CLIP (Radford et al. 2021, table 19): short runs with large steps
MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class ModelBuilder:
    """Folders and settings that all models of a run share."""

    work: Path
    inputs: Path
    seed: int
    device: str
    checkpoint_steps: int
    rows: Rows

    def get_or_build(self, name: str, identity: dict[str, Any], make: Callable[[Path], None]) -> Path:
        """Return the folder of a finished model; make it unless one of the same identity is cached.

        Args:
            name: Path of the model in the artifact.
            identity: All inputs of the model except the seed, with `code` or `format_version` among them.
            make: Writes the model into an empty folder.
        """
        key = content_key({**identity, "seed": self.seed})
        return get_or_build(self.work / "pieces" / name, key, make)

    def code_of(self, name: str) -> str:
        """Return the hash of the code that makes a model: llm, clip or captioner."""
        return code_of(self.work, "base_models", name)

    def train(
        self,
        name: str,
        model: nn.Module,
        schedule: Schedule,
        identity: dict[str, Any],
        loss_at: Callable[[int], Tensor],
    ) -> float | None:
        """Train a model with AdamW and return its last loss; None if the schedule has no steps.

        Args:
            name: Name in the log and of the checkpoints.
            model: Model to train; in evaluation mode afterwards.
            schedule: Steps, learning rate and weight decay, from params.
            identity: All inputs that the weights depend on.
            loss_at: Returns the loss of a step, given its number.
        """
        if not schedule.steps:
            model.eval()
            return None
        optimizer = _adamw(model, schedule)

        def step(number: int) -> Tensor:
            loss = loss_at(number)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
            optimizer.step()
            return loss

        model.train()
        rate = warmup_cosine(schedule.warmup_steps, schedule.steps)
        run = TrainingRun(
            f"base_models {name}", {name: model}, optimizer, rate, schedule.steps, step, self.seed
        )
        history = train(run, self.work, {**identity, "seed": self.seed}, self.checkpoint_steps)
        model.eval()
        return history[-1]["loss"]


def write_about(
    folder: Path, model: nn.Module, schedule: Schedule, loss: float | None, held_out: dict[str, Any] | None
) -> None:
    """Write `about.json` of a model trained here.

    Args:
        folder: Folder of the model.
        model: Model whose parameters are counted, shared ones once.
        schedule: Training schedule, from params.
        loss: Last training loss; None if the weights stayed random.
        held_out: Scores on held-out rows.
    """
    about = {
        "kind": "made",
        "trained": loss is not None,
        "steps": schedule.steps,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "final_loss": loss,
        "held_out": held_out,
    }
    write_json(folder / "about.json", about)


def _adamw(model: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    peak = {"lr": schedule.learning_rate, "peak": schedule.learning_rate}
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": schedule.weight_decay, **peak},
            {"params": others, "weight_decay": 0.0, **peak},
        ],
        betas=BETAS,
        fused=True,  # one pass over the weights
    )
