"""Mine hard negatives with the model itself."""

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
from components.running.costs import Spent, keep_spent, kept_spent
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
    """Return mined negatives for each kind of pair of a phase, if it asks for any, and their seconds.

    They follow from the weights that the phase starts with, which a resumed run has again: that they are kept
    saves their time alone. Of a phase the latest are kept.

    Args:
        encoder: As it is when the phase starts.
        rows: All of train.
        pairs: Of the phase.
        precision: Of the encoder.
        seed: Of the pools.
        work: The stage's folder in the work store, where they are kept.
        identity: What decides them, besides the seed.
    """
    settings = pairs.phase.mined_negatives
    if settings is None or not pairs.phase.steps:
        return [], Spent()
    key, store = content_key([identity, seed]), work / "mined" / str(seed)  # each phase has its own
    wait_for_all()
    if not is_intact(store / key):
        start_seconds = time.monotonic()
        encoder.model.eval()
        texts = 2 * sum(len(places) for places in pairs.rows)
        progress = Progress(work, f"{work.name} mining", texts, "texts", is_told=rank() == 0)
        vectors = shared_vectors(encoder, precision, progress.advance)
        near = {}
        for number, (kind, places) in enumerate(zip(pairs.kinds, pairs.rows, strict=True)):
            near[f"{number:03d}"] = near_rows(rows, places, kind, settings, vectors, seed)
        encoder.model.train()
        if rank() == 0:
            remove(store)
            spent = Spent(work_seconds=time.monotonic() - start_seconds)
            get_or_build(store, key, lambda folder: _keep(folder, near, spent))
        wait_for_all()
    kept = load_file(store / key / NEAR)
    return [kept[name] for name in sorted(kept)], kept_spent(store / key)


def _keep(folder: Path, near: dict[str, Tensor], spent: Spent) -> None:
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
    """Return for each row of a kind which of them are nearest to it, nearest first: (N, kept) int32.

    A row asks with its first caption of `kind.first`; every row answers with its first caption of
    `kind.second`, its second one where both are one column. Rows are compared within random pools. Left out
    are the row itself, equal texts, and whatever is nearer than `max_share_of_positive` of the row's own
    answer, for that may be as true (the positive-aware rule of NV-Retriever, arXiv 2407.15831, section 3.2).

    Args:
        rows: All of train.
        places: (N,) which of them have the columns of the kind.
        kind: Of pair.
        settings: How many, among how many.
        vectors: Encodes texts after a prompt: (M, d).
        seed: Of the pools.

    Returns:
        `NOBODY` fills a line that has fewer.
    """
    near = torch.full((len(places), settings.kept), NOBODY, dtype=torch.int32)
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
    second = 1 if kind.first == kind.second else 0
    for pool in order.split(settings.pool_rows):
        here = places[pool.numpy()].tolist()
        answers = [rows.captions(row, kind.second)[second] for row in here]
        queries = vectors([rows.captions(row, kind.first)[0] for row in here], kind.query_prompt)
        found = _nearest(queries, vectors(answers, ""), answers, settings)
        near[pool] = torch.where(found == NOBODY, NOBODY, pool[found.clamp(min=0)]).int()
    return near


def _nearest(queries: Tensor, answers: Tensor, texts: list[str], settings: MinedNegatives) -> Tensor:
    """Return the places within the pool of each row's nearest: (P, kept), `NOBODY` where there are fewer."""
    queries, answers = F.normalize(queries, dim=1), F.normalize(answers, dim=1)
    text = distinct(texts)[1].to(answers.device)
    kept = min(settings.kept, len(texts))
    found = torch.full((len(texts), settings.kept), NOBODY, dtype=torch.long)
    for start in range(0, len(texts), CHUNK_ROWS):
        here = slice(start, start + CHUNK_ROWS)
        cosines = queries[here] @ answers.T  # (C, P)
        limit = settings.max_share_of_positive * (queries[here] * answers[here]).sum(dim=1, keepdim=True)
        is_out = (cosines > limit) | (text[here, None] == text)
        best, places = cosines.masked_fill(is_out, float("-inf")).topk(kept, dim=1)
        found[here, :kept] = places.masked_fill(best.isinf(), NOBODY).cpu()
    return found


def shared_vectors(encoder: TextEncoder, precision: str, progress: Callable[[int], None]) -> Vectors:
    """Return an encoder of texts that has every process do its share of them.

    Args:
        encoder: In evaluation mode.
        precision: Of its products.
        progress: Told the number of texts that all have embedded.
    """

    def vectors(texts: list[str], prompt: str) -> Tensor:
        tokens = tokenise(encoder, texts, prompt)
        size = -(-len(tokens) // world_size())
        share = slice(rank() * size, min((rank() + 1) * size, len(tokens)))
        own = encode_tokens(encoder, tokens[share], BATCH_TOKENS, precision)
        wait_for_all()  # over millions of texts one may be minutes ahead of another
        progress(len(tokens))
        return gather(own.to(encoder.device), share, len(tokens))

    return vectors
