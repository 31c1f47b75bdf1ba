"""MNTP before the contrastive phases."""

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
        encoder: Whose open weights learn.
        folder: Of the base model, which has the head.
        params: Of the stage.
        mntp: Of the run.
        rows: All of train.
        name: Of the run.
        seed: Of its draws.

    Raises:
        ConfigurationError: no caption to learn from, no head, or a mask that is no token.
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
        chosen = batch_rows(len(texts), mntp.batch_size, seed, number).tolist()
        tokens = tokenise(encoder, [texts[row] for row in chosen])
        # a number known before any token is masked: parts and processes then need not ask each other
        expected = mntp.masked_share * sum(row.text_end - row.text_start for row in tokens)
        order = shared_order([len(row.ids) for row in tokens])
        rows = with_gaps(tokens, mntp.masked_share)  # of the whole batch, so that shares change no draw
        loss = torch.zeros((), device=encoder.device)
        for part in own_parts(rows, order, params.chunks, is_lean=True):
            with autocast(encoder.device, params.precision):
                of_part = masked_loss(encoder, head, part, mask) / expected
            of_part.backward()
            loss += of_part.detach()
        sum_gradients(weights)
        return all_reduce_sum(loss)

    return llm_run(encoder, params, mntp, name, seed, backward_at)
