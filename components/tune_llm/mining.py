"""Mine hard negatives with the model that is being tuned."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from components.ml.distributed import gather, rank, world_size
from components.ml.metrics import distinct
from components.ml.text.encoder import TextEncoder, encode_tokens, tokenise
from components.running.costs import Spent, keep_spent, load_spent
from components.running.progress import Progress
from components.running.ranks import wait_for_all
from components.settings.tune_llm import MinedNegatives, PairKind
from components.storage.atomic import content_key, remove
from components.storage.result_cache import get_or_build, is_intact
from components.tune_llm.caption_rows import CaptionRows
from components.tune_llm.pairs import NOBODY, PairDraws

NEAR = "near.safetensors"
BATCH_TOKENS = 16384
CHUNK_ROWS = 1024
Vectors = Callable[[list[str], str], Tensor]


def mined(
    encoder: TextEncoder,
    rows: CaptionRows,
    pairs: PairDraws,
    precision: str,
    seed: int,
    work: Path,
    identity: dict[str, Any],
) -> tuple[list[Tensor], Spent]:
    """Return the mined negatives for each kind of pair of a phase, and the seconds spent on them.

    Both are empty where the phase asks for none. The negatives follow from the weights at the start of the
    phase, which a resumed run has again, so storing them only saves time. Only the latest of a phase are
    stored.

    Args:
        encoder: In its state at the start of the phase.
        rows: All train rows.
        pairs: Of the phase.
        precision: Of the encoder.
        seed: Of the pools.
        work: The stage's folder in the work store, where the negatives are stored.
        identity: What decides the negatives, besides the seed.
    """
    settings = pairs.phase.mined_negatives
    if settings is None or not pairs.phase.steps:
        return [], Spent()
    # one folder a phase: each has its own seed
    key, store = content_key([identity, seed]), work / "mined" / str(seed)
    wait_for_all()
    if not is_intact(store / key):
        start_seconds = time.monotonic()
        encoder.model.eval()
        text_count = 2 * sum(len(row_numbers) for row_numbers in pairs.rows)
        progress = Progress(work, f"{work.name} mining", text_count, "texts", is_told=rank() == 0)
        vectors = shared_vectors(encoder, precision, progress.advance)
        near = {}
        for number, (kind, row_numbers) in enumerate(zip(pairs.kinds, pairs.rows, strict=True)):
            near[f"{number:03d}"] = near_rows(rows, row_numbers, kind, settings, vectors, seed)
        encoder.model.train()
        if rank() == 0:
            remove(store)
            spent = Spent(work_seconds=time.monotonic() - start_seconds)
            get_or_build(store, key, lambda folder: _save(folder, near, spent))
        wait_for_all()
    tensors = load_file(store / key / NEAR)
    return [tensors[name] for name in sorted(tensors)], load_spent(store / key)


def _save(folder: Path, near: dict[str, Tensor], spent: Spent) -> None:
    save_file(near, folder / NEAR)
    keep_spent(folder, spent)


def near_rows(
    rows: CaptionRows,
    places: NDArray[np.int64],
    kind: PairKind,
    settings: MinedNegatives,
    vectors: Vectors,
    seed: int,
) -> Tensor:
    """Return the nearest other rows of each row, for one kind of pair, nearest first: (N, kept) int32.

    The query of a row is its first caption of `kind.first`. The candidate of a row is its first caption of
    `kind.second`, or its second one where both are one column. Rows are compared within random pools.
    Excluded are the row itself, equal texts, and candidates whose cosine is above `max_share_of_positive`
    times that of the row's own candidate, because they may be as true (the positive-aware rule of
    NV-Retriever, arXiv 2407.15831, section 3.2).

    Args:
        rows: All train rows.
        places: (N,) numbers of the rows that have the columns of the kind.
        kind: Of pair.
        settings: How many negatives to keep, and of how large pools.
        vectors: Encodes texts after a prompt: (M, d).
        seed: Of the pools.

    Returns:
        Indices into `places`; `NOBODY` pads a line that has fewer.
    """
    near = torch.full((len(places), settings.kept), NOBODY, dtype=torch.int32)
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
    second_number = 1 if kind.first == kind.second else 0
    for pool in order.split(settings.pool_rows):
        pool_numbers = places[pool.numpy()].tolist()
        answers = [rows.captions(row, kind.second)[second_number] for row in pool_numbers]
        queries = vectors([rows.captions(row, kind.first)[0] for row in pool_numbers], kind.query_prompt)
        nearest = _nearest(queries, vectors(answers, ""), answers, settings)
        near[pool] = torch.where(nearest == NOBODY, NOBODY, pool[nearest.clamp(min=0)]).int()
    return near


def _nearest(queries: Tensor, answers: Tensor, texts: list[str], settings: MinedNegatives) -> Tensor:
    """Return the pool indices of each row's nearest candidates: (P, kept), padded with `NOBODY`."""
    queries, answers = F.normalize(queries, dim=1), F.normalize(answers, dim=1)
    text_ids = distinct(texts)[1].to(answers.device)
    count = min(settings.kept, len(texts))
    nearest = torch.full((len(texts), settings.kept), NOBODY, dtype=torch.long)
    for start in range(0, len(texts), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        cosines = queries[chunk] @ answers.T  # (C, P)
        limit = settings.max_share_of_positive * (queries[chunk] * answers[chunk]).sum(dim=1, keepdim=True)
        is_excluded = (cosines > limit) | (text_ids[chunk, None] == text_ids)
        best_cosines, indices = cosines.masked_fill(is_excluded, float("-inf")).topk(count, dim=1)
        nearest[chunk, :count] = indices.masked_fill(best_cosines.isinf(), NOBODY).cpu()
    return nearest


def shared_vectors(encoder: TextEncoder, precision: str, progress: Callable[[int], None]) -> Vectors:
    """Return a text encoder that divides the texts among all processes.

    Args:
        encoder: In evaluation mode.
        precision: Of its matrix products.
        progress: Called with the number of texts that all processes have embedded.
    """

    def vectors(texts: list[str], prompt: str) -> Tensor:
        tokens = tokenise(encoder, texts, prompt)
        size = -(-len(tokens) // world_size())
        share = slice(rank() * size, min((rank() + 1) * size, len(tokens)))
        share_vectors = encode_tokens(encoder, tokens[share], BATCH_TOKENS, precision)
        wait_for_all()  # over millions of texts one process may be minutes ahead of another
        progress(len(tokens))
        return gather(share_vectors.to(encoder.device), share, len(tokens))

    return vectors
