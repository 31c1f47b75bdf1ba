"""One tuning phase: weights, rates, and the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from components.errors import ConfigurationError
from components.ml.losses.contrastive import NegativeMask, caption_loss
from components.ml.losses.gradient_cache import backward
from components.ml.precision import autocast
from components.ml.schedule import warmup_cosine
from components.ml.text.encoder import TextEncoder, embed, tokenise
from components.ml.text.template import Tokens
from components.running.training import TrainingRun, clip_gradients
from components.settings.tune_llm import Lora, Mntp, Phase, TuneLlm
from components.tune_llm.pairs import NOBODY, PairBatch, PairDraws
from components.tune_llm.shares import check_shares, own_parts, shared_order

if TYPE_CHECKING:
    from peft import PeftModel
from dataclasses import replace

from components.ml.text.encoder import draw_tokens

ROWS_FROM = 1 << 40  # identities of rows are numbered from here, those of texts from 0


def open_weights(encoder: TextEncoder, lora: Lora | None, seed: int) -> PeftModel | None:
    """Let all weights learn, or those of a LoRA that is added, and return its wrapper.

    Raises:
        ConfigurationError: a target is no layer of the model.
    """
    if lora is None:
        encoder.model.requires_grad_(True)
        return None
    from peft import LoraConfig, get_peft_model

    _check_targets(encoder.model, lora.targets)
    torch.manual_seed(seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        bias="none",
        task_type="FEATURE_EXTRACTION",
    )
    return get_peft_model(encoder.model, config)


def _check_targets(model: nn.Module, targets: list[str]) -> None:
    """See that there is a layer of each name; PEFT says nothing where only some are there."""
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Embedding)]
    if odd := [one for one in targets if not any(f".{name}".endswith(f".{one}") for name in layers)]:
        known = sorted({name.rpartition(".")[2] for name in layers})
        raise ConfigurationError(
            f"tune_llm.lora.targets names {', '.join(odd)}, which the language model has not; expected "
            f"some of {', '.join(known)}"
        )


def phase_run(
    encoder: TextEncoder, params: TuneLlm, phase: Phase, pairs: PairDraws, name: str, seed: int
) -> TrainingRun:
    """Return one phase as a training run.

    Raises:
        ConfigurationError: a batch cannot be shared equally by the processes that train.
    """
    for rows in pairs.rows:
        check_shares(min(phase.batch_size, len(rows)), "tune_llm.phases batch_size")
    return llm_run(
        encoder,
        params,
        phase,
        name,
        seed,
        lambda number, weights: batch_backward(encoder, params, pairs.batch(number), weights),
    )


def llm_run(
    encoder: TextEncoder,
    params: TuneLlm,
    schedule: Phase | Mntp,
    name: str,
    seed: int,
    backward_at: Callable[[int, Sequence[Tensor]], Tensor],
) -> TrainingRun:
    """Return the training run of an encoder's open weights.

    Args:
        encoder: Whose weights learn.
        params: Of the stage.
        schedule: Rate, steps and warm-up.
        name: Of the run.
        seed: Of its draws.
        backward_at: Adds the gradients of a step, by its number, to the weights; returns the loss.
    """
    groups = parameter_groups(encoder.model, schedule.learning_rate, params.embedding_rate_factor)
    optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=params.weight_decay, fused=True)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def step(number: int) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = backward_at(number, weights)
        clip_gradients(name, number, weights, params.max_gradient_norm)
        optimizer.step()
        return loss

    return TrainingRun(
        name=name,
        modules={"llm": encoder.model},
        optimizer=optimizer,
        learning_rate_at=warmup_cosine(schedule.warmup_steps, schedule.steps),
        steps=schedule.steps,
        step=step,
        seed=seed,
    )


def parameter_groups(model: nn.Module, rate: float, embedding_rate_factor: float) -> list[dict[str, Any]]:
    """Return the weights that learn, token embeddings apart, each group with its peak learning rate."""
    embeddings = {id(weight) for weight in model.get_input_embeddings().parameters()}  # type: ignore[operator]
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in learning if id(weight) not in embeddings], "peak": rate},
        {
            "params": [weight for weight in learning if id(weight) in embeddings],
            "peak": rate * embedding_rate_factor,
        },
    ]
    return [group for group in groups if group["params"]]


def batch_backward(
    encoder: TextEncoder, params: TuneLlm, batch: PairBatch, weights: Sequence[Tensor]
) -> Tensor:
    """Add the gradients of a batch's contrastive loss to `weights`; return the loss."""
    queries = tokenise(encoder, batch.first, batch.query_prompt)
    candidates = tokenise(encoder, batch.second + batch.negatives)
    rows = with_dropout(queries + candidates, params.token_dropout)
    order = shared_order([len(row.ids) for row in rows])
    excluded = _excluded(batch, queries, candidates, params.false_negative_margin, encoder.device)

    def loss_of(embeddings: Tensor) -> Tensor:
        unit = nn.functional.normalize(embeddings[torch.tensor(order).argsort()], dim=1)
        return caption_loss(
            unit[: len(queries)],
            unit[len(queries) :],
            params.temperature,
            symmetric=params.symmetric,
            same_side=params.same_side_negatives,
            excluded=excluded,
        )

    parts = [
        partial(_part, encoder, part, params.precision)
        for part in own_parts(rows, order, params.chunks, is_lean=params.gradient_cache)
    ]
    return backward(parts, loss_of, weights, len(rows), is_cached=params.gradient_cache)


def _part(encoder: TextEncoder, rows: list[Tokens], precision: str) -> Tensor:
    with autocast(encoder.device, precision):
        return embed(encoder, rows)


def _excluded(
    batch: PairBatch,
    queries: list[Tokens],
    candidates: list[Tokens],
    margin: float | None,
    device: torch.device,
) -> NegativeMask:
    """Say what is no negative: texts that the model reads as equal, without prompts, and those of a row."""
    numbers: dict[tuple[int, ...], int] = {}
    asked, answers = (
        [numbers.setdefault(row.ids[row.text_start :], len(numbers)) for row in rows]
        for rows in (queries, candidates)
    )
    pairs = [
        [one, other, ROWS_FROM + row]
        for one, other, row in zip(asked, answers[: len(asked)], batch.rows, strict=True)
    ]
    others = [
        [NOBODY, text, NOBODY if row == NOBODY else ROWS_FROM + row]
        for text, row in zip(answers[len(asked) :], batch.negative_rows, strict=True)
    ]
    return NegativeMask(
        torch.tensor(pairs, device=device), torch.tensor(pairs + others, device=device), margin=margin
    )


def with_dropout(rows: list[Tokens], share: float) -> list[Tokens]:
    """Leave out tokens of texts, each with a chance of `share`, by torch's global generator.

    Word dropout of deep averaging networks (Iyyer et al. 2015, section 2.3). Template and prompt stay whole,
    and a text that would lose all its tokens.
    """
    if not share:
        return rows
    return [_shortened(row, left_out) for row, left_out in zip(rows, draw_tokens(rows, share), strict=True)]


def _shortened(row: Tokens, left_out: list[bool]) -> Tokens:
    text = row.ids[row.text_start : row.text_end]
    kept = [one for one, is_out in zip(text, left_out, strict=True) if not is_out] or text
    end = row.text_start + len(kept)
    return replace(row, ids=(*row.ids[: row.text_start], *kept, *row.ids[row.text_end :]), text_end=end)
