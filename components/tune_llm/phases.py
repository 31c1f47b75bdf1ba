"""Tune the LLM in this process: load, train each phase."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from components.errors import ConfigurationError
from components.ml.distributed import shard, world_size
from components.ml.text.attention import attention_that_learns
from components.ml.text.encoder import TextEncoder, load_text_encoder
from components.ml.text.frozen_weights import frozen_in_bf16
from components.running.costs import Spent, together
from components.running.model_weights import is_stored_in_bf16
from components.running.training import train
from components.settings.environment import Environment
from components.settings.tune_llm import TuneLlm
from components.tune_llm.caption_retrieval import llm_recalls
from components.tune_llm.caption_rows import CaptionRows
from components.tune_llm.masking import masking_run
from components.tune_llm.mining import mined
from components.tune_llm.saving import LoraAdapter, encoding_of, lora_tensors
from components.tune_llm.training_data import TrainingData
from components.tune_llm.tuning import open_weights, phase_run

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor


STAGE = "tune_llm"
History = list[dict[str, float]]


@dataclass(frozen=True)
class Trained:
    """A language model after the last phase.

    Attributes:
        encoder: In training mode.
        adapter: The LoRA; None where all weights were trained.
        histories: Of the phases, in order.
        masking: History of MNTP before the phases; empty where there was none.
        spent: The seconds of training and mining; of several processes, those of the first.
    """

    encoder: TextEncoder
    adapter: LoraAdapter | None
    histories: list[History]
    masking: History
    spent: Spent


def load_base(data: TrainingData, device: str) -> TextEncoder:
    """Load the base model with the encoding of params.

    Raises:
        ConfigurationError: the model and the encoding do not fit.
    """
    settings = data.params.tune_llm
    try:
        return load_text_encoder(
            data.llm,
            **encoding_of(settings),
            device=device,
            precision=held_precision(settings, data.llm),
        )
    except ValueError as error:
        raise ConfigurationError(f"tune_llm.encoding and base_models.llm do not fit: {error}") from None


def tune(data: TrainingData, encoder: TextEncoder, env: Environment) -> Trained:
    """Tune a base model phase by phase; resume where a run stopped.

    Args:
        data: Training data.
        encoder: The base model; changed in place.
        env: Where training runs.
    """
    params = data.params
    settings, work = params.tune_llm, data.layout.work(STAGE)
    masking: History = []
    masking_spent = Spent()
    merged: dict[str, Tensor] = {}
    if settings.mntp:
        with opened(encoder, settings, env.training_layout, params.seed) as adapter:
            run = masking_run(
                encoder, data.llm, settings, settings.mntp, data.train_rows, f"{STAGE}_mntp", params.seed
            )
            masking = train(run, work, {**data.decided_by([]), "what": "mntp"}, settings.checkpoint_steps)
            masking_spent = run.spent
        if adapter is not None:
            merged = lora_tensors(adapter)
            encoder.model = adapter.merge_and_unload()
    with opened(encoder, settings, env.training_layout, params.seed) as adapter:
        histories, spent = _train_phases(data, encoder)
    encoder.model.zero_grad(set_to_none=True)  # gradients of the last step take as much memory as the weights
    lora = LoraAdapter(adapter, merged) if adapter is not None else None
    return Trained(encoder, lora, histories, masking, together([masking_spent, *spent]))


def _train_phases(data: TrainingData, encoder: TextEncoder) -> tuple[list[History], list[Spent]]:
    """Train the phases; return their histories, and the seconds of training and mining."""
    settings, work = data.params.tune_llm, data.layout.work(STAGE)
    histories, spent = [], []
    for number, (phase, pairs) in enumerate(zip(settings.phases, data.draws, strict=True), start=1):
        identity = data.decided_by(settings.phases[:number])
        seed = data.seed_of(number)
        pairs.near, mining_spent = mined(
            encoder, data.train_rows, pairs, settings.precision, seed, work, identity
        )
        run = phase_run(encoder, settings, phase, pairs, f"{STAGE}_phase{number}", seed)
        run = replace(
            run,
            measure=partial(_measure, encoder, settings, data.validation_rows),
            measure_steps=settings.caption_retrieval_steps or 0,
            measured_by=data.measured_by,
        )
        histories.append(train(run, work, identity, settings.checkpoint_steps))
        spent += [mining_spent, run.spent]
    return histories, spent


@contextmanager
def opened(
    encoder: TextEncoder, settings: TuneLlm, training_layout: str, seed: int
) -> Iterator[PeftModel | None]:
    """Prepare a model for training within the block: its trainable weights, their dtype and their sharding.

    Yields:
        The wrapper of the LoRA; None where all weights are trained.
    """
    adapter = open_weights(encoder, settings.lora if settings.method == "lora" else None, seed)
    is_half = adapter is not None and settings.precision == "bf16"
    with frozen_in_bf16(encoder.model) if is_half else nullcontext():
        if training_layout == "sharded" and world_size() > 1:
            if settings.mntp or any(phase.mined_negatives for phase in settings.phases):
                raise ConfigurationError(
                    "tune_llm.mntp and mined_negatives need the whole model in each process; expected "
                    "LLM2CLIP_TRAINING_LAYOUT=replicated"
                )
            shard(encoder.model, encoder.device.type)
        encoder.model.train()
        if settings.gradient_checkpointing:
            encoder.model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        with attention_that_learns(encoder.model, settings.precision):
            yield adapter


def _measure(encoder: TextEncoder, settings: TuneLlm, rows: CaptionRows) -> dict[str, float]:
    recalls = llm_recalls(encoder, settings.caption_retrieval, rows, settings.precision)
    encoder.model.train()
    return {f"recall_at_1 {name}": recall for name, recall in recalls.items()}


def held_precision(settings: TuneLlm, llm: Path) -> str:
    """Return `bf16` where that loses nothing, else `fp32`.

    Weights beside a LoRA are frozen, so weights published in bf16 never need more bytes. (PEFT then draws the
    same initial A of a LoRA, rounded to bf16.) The LoRA that MNTP merges into the weights would be lost in
    bf16, and weights that are trained need float32.

    Args:
        settings: Section `tune_llm`.
        llm: Folder of the base model.
    """
    is_frozen = settings.method == "lora" and settings.mntp is None
    try:
        return "bf16" if is_frozen and settings.precision == "bf16" and is_stored_in_bf16(llm) else "fp32"
    except SafetensorError:  # the loader reports what is wrong
        return "fp32"
