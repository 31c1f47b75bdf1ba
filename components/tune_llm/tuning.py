"""One tuning phase: trainable weights, learning rates, and the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from components.errors import ConfigurationError
from components.ml.losses.contrastive import NegativeMask, caption_loss
from components.ml.losses.gradient_cache import backward
from components.ml.precision import autocast
from components.ml.schedule import warmup_cosine
from components.ml.text.encoder import TextEncoder, draw_tokens, embed, tokenise
from components.ml.text.template import Tokens
from components.running.training import TrainingRun, clip_gradients
from components.settings.tune_llm import Lora, Mntp, Phase, TuneLlm
from components.tune_llm.pairs import NOBODY, PairBatch, PairDraws
from components.tune_llm.shares import check_shares, own_parts, shared_order

if TYPE_CHECKING:
    from peft import PeftModel


ROWS_FROM = 1 << 40  # identity numbers of rows start here, those of texts at 0


def open_weights(encoder: TextEncoder, lora: Lora | None, seed: int) -> PeftModel | None:
    """Make all weights trainable, or add a LoRA and return its wrapper.

    Raises:
        ConfigurationError: a target of the LoRA is not a layer of the model.
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
    """Check that the model has a layer of each name; PEFT does not report names of which only some exist."""
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Embedding)]
    if unknown := [
        target for target in targets if not any(f".{name}".endswith(f".{target}") for name in layers)
    ]:
        known = sorted({name.rpartition(".")[2] for name in layers})
        raise ConfigurationError(
            f"tune_llm.lora.targets names {', '.join(unknown)}, which the language model does not have; "
            f"expected some of {', '.join(known)}"
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
    """Return the training run of an encoder's trainable weights.

    Args:
        encoder: The model; its trainable weights are updated.
        params: Section `tune_llm`.
        schedule: Learning rate, steps and warm-up.
        name: Of the run.
        seed: Of its draws.
        backward_at: Takes a step's number and the weights, adds the gradients to the weights, and returns the
            loss.
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
    """Return the trainable weights in groups, token embeddings apart, each with its peak learning rate."""
    embeddings = {id(weight) for weight in model.get_input_embeddings().parameters()}  # type: ignore[operator]
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in trainable if id(weight) not in embeddings], "peak": rate},
        {
            "params": [weight for weight in trainable if id(weight) in embeddings],
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
    excluded = _negative_mask(batch, queries, candidates, params.false_negative_margin, encoder.device)

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
        partial(_embed_part, encoder, part, params.precision)
        for part in own_parts(rows, order, params.chunks, is_lean=params.gradient_cache)
    ]
    return backward(parts, loss_of, weights, len(rows), is_cached=params.gradient_cache)


def _embed_part(encoder: TextEncoder, rows: list[Tokens], precision: str) -> Tensor:
    with autocast(encoder.device, precision):
        return embed(encoder, rows)


def _negative_mask(
    batch: PairBatch,
    queries: list[Tokens],
    candidates: list[Tokens],
    margin: float | None,
    device: torch.device,
) -> NegativeMask:
    """Mask candidates that are not negatives: equal tokens, prompts aside, or the same row."""
    text_ids: dict[tuple[int, ...], int] = {}
    query_ids, candidate_ids = (
        [text_ids.setdefault(row.ids[row.text_start :], len(text_ids)) for row in rows]
        for rows in (queries, candidates)
    )
    pair_identities = [
        [query_id, candidate_id, ROWS_FROM + row]
        for query_id, candidate_id, row in zip(
            query_ids, candidate_ids[: len(query_ids)], batch.rows, strict=True
        )
    ]
    negative_identities = [
        [NOBODY, text_id, NOBODY if row == NOBODY else ROWS_FROM + row]
        for text_id, row in zip(candidate_ids[len(query_ids) :], batch.negative_rows, strict=True)
    ]
    return NegativeMask(
        torch.tensor(pair_identities, device=device),
        torch.tensor(pair_identities + negative_identities, device=device),
        margin=margin,
    )


def with_dropout(rows: list[Tokens], share: float) -> list[Tokens]:
    """Drop each token of the texts with probability `share`, by torch's global generator.

    Word dropout of deep averaging networks (Iyyer et al. 2015, section 2.3). Template and prompt stay whole,
    and so does a text that would lose all its tokens.
    """
    if not share:
        return rows
    return [
        _without_tokens(row, is_dropped)
        for row, is_dropped in zip(rows, draw_tokens(rows, share), strict=True)
    ]


def _without_tokens(row: Tokens, is_dropped: list[bool]) -> Tokens:
    text = row.ids[row.text_start : row.text_end]
    tokens = [token for token, is_out in zip(text, is_dropped, strict=True) if not is_out] or text
    end = row.text_start + len(tokens)
    return replace(row, ids=(*row.ids[: row.text_start], *tokens, *row.ids[row.text_end :]), text_end=end)
