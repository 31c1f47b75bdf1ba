"""Masked next-token prediction (MNTP), trained before the contrastive phases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from components.errors import ConfigurationError
from components.ml.distributed import all_reduce_sum, sum_gradients
from components.ml.precision import autocast
from components.ml.schedule import batch_rows
from components.ml.text.encoder import TextEncoder, tokenise
from components.ml.text.mntp import load_head, mask_token, masked_loss, with_gaps
from components.running.training import TrainingRun
from components.settings.tune_llm import Mntp, TuneLlm
from components.tune_llm.caption_rows import CaptionRows, CaptionTexts
from components.tune_llm.shares import check_shares, own_parts, shared_order
from components.tune_llm.tuning import llm_run


def masking_run(
    encoder: TextEncoder,
    folder: Path,
    params: TuneLlm,
    mntp: Mntp,
    rows: CaptionRows,
    name: str,
    seed: int,
) -> TrainingRun:
    """Return the training run that predicts masked tokens of captions.

    Args:
        encoder: The model; its trainable weights are updated.
        folder: Of the base model, which has the output head.
        params: Section `tune_llm`.
        mntp: Section `tune_llm.mntp`.
        rows: All train rows.
        name: Of the run.
        seed: Of the run's draws.

    Raises:
        ConfigurationError: there is no caption to train on, no head, or the mask is not a token.
    """
    texts = CaptionTexts(rows, mntp.columns)
    if not len(texts):
        raise ConfigurationError(
            f"tune_llm.mntp: no train row has a caption of {', '.join(mntp.columns)}; expected some"
        )
    check_shares(min(mntp.batch_size, len(texts)), "tune_llm.mntp batch_size")
    try:
        head, mask = load_head(folder, encoder), mask_token(encoder.tokenizer, mntp.mask)
    except ValueError as error:
        raise ConfigurationError(f"tune_llm.mntp: {error}") from None

    def backward_at(number: int, weights: Sequence[Tensor]) -> Tensor:
        text_indices = batch_rows(len(texts), mntp.batch_size, seed, number).tolist()
        tokens = tokenise(encoder, [texts[row] for row in text_indices])
        # known before any token is masked, so chunks and processes need not exchange it
        expected_masked = mntp.masked_share * sum(row.text_end - row.text_start for row in tokens)
        order = shared_order([len(row.ids) for row in tokens])
        masked_rows = with_gaps(tokens, mntp.masked_share)  # whole batch: sharing it changes no draw
        loss = torch.zeros((), device=encoder.device)
        for part in own_parts(masked_rows, order, params.chunks, is_lean=True):
            with autocast(encoder.device, params.precision):
                part_loss = masked_loss(encoder, head, part, mask) / expected_masked
            part_loss.backward()
            loss += part_loss.detach()
        sum_gradients(weights)
        return all_reduce_sum(loss)

    return llm_run(encoder, params, mntp, name, seed, backward_at)
