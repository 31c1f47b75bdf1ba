"""Tune the LLM in this process: load, train each phase, merge members."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from components.errors import ConfigurationError
from components.ml.distributed import shard, without_process_group, world_size
from components.ml.text.attention import attention_that_learns
from components.ml.text.encoder import TextEncoder, load_text_encoder
from components.ml.text.ensemble import check_joinable, joined
from components.ml.text.frozen_weights import frozen_in_bf16
from components.running.costs import Spent, together
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
from pathlib import Path

from safetensors import SafetensorError

from components.running.model_weights import is_stored_in_bf16

STAGE = "tune_llm"
History = list[dict[str, float]]


@dataclass(frozen=True)
class Trained:
    """A language model after the last phase.

    Attributes:
        encoder: In training mode.
        adapter: The LoRA; None where all weights learned.
        histories: Of the phases, in order.
        masking: History of the step before them; empty where there was none.
        spent: The seconds of all of it, with those of finding negatives; of the first process of several.
    """

    encoder: TextEncoder
    adapter: LoraAdapter | None
    histories: list[History]
    masking: History
    spent: Spent


def load_base(material: TrainingData, device: str) -> TextEncoder:
    """Load the base model, to be encoded with as params say.

    Raises:
        ConfigurationError: they do not fit.
    """
    own = material.params.tune_llm
    try:
        return load_text_encoder(
            material.llm, **encoding_of(own), device=device, precision=held_precision(own, material.llm)
        )
    except ValueError as error:
        raise ConfigurationError(f"tune_llm.encoding and base_models.llm do not fit: {error}") from None


def tuned_members(material: TrainingData, encoder: TextEncoder, env: Environment) -> Iterator[Trained]:
    """Tune a base model, phase by phase, and again for each further member; goes on where a run stopped.

    Members know nothing of each other: where they can be dealt out equally to the processes that train, each
    process tunes its own, with the weights of a single process to the bit.

    Args:
        material: What they see.
        encoder: The base model; changed in place, and the first member.
        env: Where it happens.

    Yields:
        Each member of this process when it is tuned.

    Raises:
        ConfigurationError: params ask for several, and such models cannot be joined.
    """
    members = material.params.tune_llm.members
    if members > 1:
        try:
            check_joinable(encoder.model)
        except ValueError as error:
            raise ConfigurationError(f"tune_llm.members is {members}: {error}") from None
    is_dealt = members % world_size() == 0 and env.training_layout == "replicated"
    with without_process_group() if is_dealt else nullcontext((1, 0)) as (count, first):
        for number in range(first, members, count):
            model = encoder if number == first else load_base(material, env.device)
            yield _tuned(material, model, env, number)


def join(members: list[Trained]) -> Trained:
    """Return the only member, or all of them merged (`ml.text.ensemble`), on the CPU."""
    first = members[0]
    if len(members) == 1:
        return first
    model = joined([member.encoder.model for member in members])
    histories = [history for member in members for history in member.histories]
    spent = together(member.spent for member in members)
    return Trained(replace(first.encoder, model=model), None, histories, [], spent)


def _tuned(material: TrainingData, encoder: TextEncoder, env: Environment, member: int) -> Trained:
    params = material.params
    own, work = params.tune_llm, material.layout.work(STAGE)
    masking: History = []
    of_masking = Spent()
    merged: dict[str, Tensor] = {}
    if own.mntp:
        with opened(encoder, own, env.training_layout, params.seed) as adapter:
            run = masking_run(
                encoder, material.llm, own, own.mntp, material.train_rows, f"{STAGE}_mntp", params.seed
            )
            masking = train(run, work, {**material.decided_by, "what": "mntp"}, own.checkpoint_steps)
            of_masking = run.spent
        if adapter is not None:
            merged = lora_tensors(adapter)
            encoder.model = adapter.merge_and_unload()
    with opened(encoder, own, env.training_layout, params.seed) as adapter:
        histories, spent = _phases(material, encoder, member)
    encoder.model.zero_grad(set_to_none=True)  # those of the last step take as much memory as the weights
    lora = LoraAdapter(adapter, merged) if adapter is not None else None
    return Trained(encoder, lora, histories, masking, together([of_masking, *spent]))


def _phases(material: TrainingData, encoder: TextEncoder, member: int) -> tuple[list[History], list[Spent]]:
    """Train the phases; return their histories, and the seconds of all that was done."""
    own, work = material.params.tune_llm, material.layout.work(STAGE)
    name = f"{STAGE}_member{member + 1}" if member else STAGE
    draws = material.draws_of(member) if member else material.draws
    histories, spent = [], []
    for number, (phase, pairs) in enumerate(zip(own.phases, draws, strict=True), start=1):
        identity = {
            **material.decided_by,
            **({"member": member} if member else {}),
            "phases": [one.model_dump() for one in own.phases[:number]],
            "measured": _measures(own),
        }
        seed = material.seed_of(member, number)
        pairs.near, of_mining = mined(
            encoder, material.train_rows, pairs, own.precision, seed, work, identity
        )
        run = phase_run(encoder, own, phase, pairs, f"{name}_phase{number}", seed)
        run = replace(
            run,
            measure=partial(_measured, encoder, own, material.validation_rows),
            measure_steps=own.caption_retrieval_steps or 0,
        )
        histories.append(train(run, work, identity, own.checkpoint_steps))
        spent += [of_mining, run.spent]
    return histories, spent


@contextmanager
def opened(encoder: TextEncoder, own: TuneLlm, training_layout: str, seed: int) -> Iterator[PeftModel | None]:
    """Have a model ready to learn within the block: which weights do, in which bytes, spread over whom.

    Yields:
        The wrapper of the LoRA; None where all weights learn.
    """
    adapter = open_weights(encoder, own.lora if own.method == "lora" else None, seed)
    is_half = adapter is not None and own.precision == "bf16"
    with frozen_in_bf16(encoder.model) if is_half else nullcontext():
        if training_layout == "sharded" and world_size() > 1:
            if own.mntp or any(phase.mined_negatives for phase in own.phases):
                raise ConfigurationError(
                    "tune_llm.mntp and mined_negatives need the whole model in each process; expected "
                    "LLM2CLIP_TRAINING_LAYOUT=replicated"
                )
            shard(encoder.model, encoder.device.type)
        encoder.model.train()
        if own.gradient_checkpointing:
            encoder.model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        with attention_that_learns(encoder.model, own.precision):
            yield adapter


def _measures(own: TuneLlm) -> list[Any] | None:
    """Return what decides the figures of a history, besides its weights."""
    tasks = [one.model_dump() for one in own.caption_retrieval]
    return [own.caption_retrieval_steps, tasks] if own.caption_retrieval_steps else None


def _measured(encoder: TextEncoder, own: TuneLlm, rows: CaptionRows) -> dict[str, float]:
    recalls = llm_recalls(encoder, own.caption_retrieval, rows, own.precision)
    encoder.model.train()
    return {f"recall_at_1 {name}": recall for name, recall in recalls.items()}


def held_precision(own: TuneLlm, llm: Path) -> str:
    """Return `bf16` where that loses nothing, else `fp32`.

    Weights beside a LoRA do not learn, so those that were published in bf16 need no more bytes at any time.
    (PEFT then starts a LoRA's A from the same draws, rounded to bf16.)
    What MNTP merges into them would be lost in bf16, and what learns itself needs float32.

    Args:
        own: How it is tuned.
        llm: Folder of the base model.
    """
    is_frozen = own.method == "lora" and own.mntp is None
    try:
        return "bf16" if is_frozen and own.precision == "bf16" and is_stored_in_bf16(llm) else "fp32"
    except SafetensorError:  # who loads it says what is wrong
        return "fp32"
