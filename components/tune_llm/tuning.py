"""One phase of tuning: which weights learn, at which rates, and what one step does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from components.ml.contrastive import caption_loss
from components.ml.llm import TextEncoder, autocast, embed, tokenise
from components.ml.template import Tokens
from components.running.training import Run, warmup_cosine
from components.settings.tune_llm import Phase, TuneLlm
from components.tune_llm.pairs import PairDraws

if TYPE_CHECKING:
    from peft import PeftModel


def open_weights(encoder: TextEncoder, params: TuneLlm, seed: int) -> PeftModel | None:
    """Let the weights of `params.method` learn; for LoRA, add its layers and return their wrapper."""
    if params.method == "full" or params.lora is None:
        encoder.model.requires_grad_(True)
        return None
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=params.lora.rank,
        lora_alpha=params.lora.alpha,
        lora_dropout=params.lora.dropout,
        target_modules=list(params.lora.targets),
        bias="none",
        task_type="FEATURE_EXTRACTION",
    )
    return get_peft_model(encoder.model, config)


def phase_run(
    encoder: TextEncoder, params: TuneLlm, phase: Phase, pairs: PairDraws, name: str, seed: int
) -> Run:
    """Return one phase as a training run."""
    optimizer = torch.optim.AdamW(
        parameter_groups(encoder.model, params, phase), lr=0.0, weight_decay=params.weight_decay
    )
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def step(number: int) -> Tensor:
        first, second = pairs.batch(number)
        optimizer.zero_grad(set_to_none=True)
        loss = pair_loss(encoder, params, first, second)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, params.max_gradient_norm)
        optimizer.step()
        return loss

    encoder.model.train()
    return Run(
        name=name,
        modules={"llm": encoder.model},
        optimizer=optimizer,
        learning_rate_at=warmup_cosine(phase.warmup_steps, phase.steps),
        steps=phase.steps,
        step=step,
        seed=seed,
    )


def parameter_groups(model: nn.Module, params: TuneLlm, phase: Phase) -> list[dict[str, Any]]:
    """Return the weights that learn, token embeddings apart, each group with its peak learning rate."""
    embeddings = {id(weight) for weight in model.get_input_embeddings().parameters()}  # type: ignore[operator]
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    rate = phase.learning_rate
    groups = [
        {"params": [weight for weight in learning if id(weight) not in embeddings], "peak": rate},
        {
            "params": [weight for weight in learning if id(weight) in embeddings],
            "peak": rate * params.embedding_rate_factor,
        },
    ]
    return [group for group in groups if group["params"]]


def pair_loss(encoder: TextEncoder, params: TuneLlm, first: list[str], second: list[str]) -> Tensor:
    """Return the contrastive loss of a batch of pairs; equal texts are no negatives of each other."""
    queries = tokenise(encoder, first, as_queries=True)
    documents = tokenise(encoder, second)
    embeddings = embed_in_chunks(encoder, queries + documents, params.chunks, params.precision)
    unit = nn.functional.normalize(embeddings, dim=1)
    numbers: dict[tuple[int, ...], int] = {}
    captions = torch.tensor(
        [
            [numbers.setdefault(row.ids[row.text_start :], len(numbers)) for row in pair]
            for pair in zip(queries, documents, strict=True)
        ]
    )
    return caption_loss(
        unit[: len(first)],
        unit[len(first) :],
        params.temperature,
        symmetric=params.symmetric,
        captions=captions.to(unit.device),
    )


def embed_in_chunks(encoder: TextEncoder, rows: list[Tokens], chunks: int, precision: str) -> Tensor:
    """Encode a batch (N, d) with gradients, in chunks of about equal length, so that little is padding."""
    order = sorted(range(len(rows)), key=lambda row: (len(rows[row].ids), row))
    size = -(-len(order) // chunks)
    with autocast(encoder.device, precision):
        parts = [
            embed(encoder, [rows[row] for row in order[start : start + size]])
            for start in range(0, len(order), size)
        ]
    return torch.cat(parts)[torch.tensor(order).argsort()]
