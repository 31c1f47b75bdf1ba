"""Embed every caption once with each language model in use, for training never loads one (METHOD 2).

Reads:
    artifacts/recaption/captions/, artifacts/audit/kept/, artifacts/base_models/llm/, artifacts/tune_llm/llm/
    and encoding.json, artifacts/download/ (labels of the test split, for zero-shot prompts)
Writes:
    artifacts/embed_captions/<base|tuned>/00000.safetensors, .parquet, .json (figures), prompts.*;
    metrics/embed_captions.json.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from components.embed_captions.embedding import Embedder, check_again
from components.embed_captions.llms import Llm
from components.embed_captions.sources import caption_shards, kept_captions, zero_shot_prompts
from components.running.output import output, write_metrics
from components.running.progress import Progress
from components.running.rows import Rows
from components.settings.embed_captions import EmbedCaptions
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import content_key, read_json
from components.storage.embeddings import PROMPTS
from components.storage.layout import Layout
from components.storage.pieces import piece, put_files

STAGE = "embed_captions"


def run(params: Params, env: Environment) -> None:
    """Run the stage."""
    layout = Layout(env.work_store)
    own = params.embed_captions
    shards = caption_shards(layout.artifact("recaption"), layout.artifact("audit"))
    prompts = zero_shot_prompts(params.evaluate.zero_shot, layout.artifact("download"))
    rows = Rows()
    captions = {shard.name: kept_captions(shard, rows) for shard in shards}

    total = sum(len(found) for found in captions.values()) + len(prompts)
    progress = Progress(layout.work(STAGE), STAGE, total * len(own.llms), "captions")
    pieces = layout.work(STAGE) / "pieces"
    figures: dict[str, Any] = {}
    with output(layout, STAGE) as out:
        for name in own.llms:
            embedder = Embedder(Llm(name, layout, own, env.device), own, params.seed, progress.advance)
            works = [
                (shard.name, shard.content, partial(embedder.write_captions, captions=captions[shard.name]))
                for shard in shards
            ]
            if prompts:
                content = content_key([asdict(prompt) for prompt in prompts])
                works.append((PROMPTS, content, partial(embedder.write_prompts, prompts=prompts)))
            for shard, content, write in works:
                done = progress.done
                made = piece(pieces, embedder.key(content), partial(write, shard=shard))
                put_files(made, out.folder / name)
                lines = len(prompts) if shard == PROMPTS else len(captions[shard])
                progress.advance(lines - (progress.done - done))  # those that share a text or were there
            figures[name] = _figures(out.folder / name, own)
    write_metrics(layout, STAGE, {**rows.figures(), "llms": figures})


def _figures(folder: Path, own: EmbedCaptions) -> dict[str, Any]:
    shards = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    for shard, found in shards.items():
        check_again(shard, found, own)
    cosines = [found["recheck_min_cosine"] for found in shards.values() if found["recheck_min_cosine"]]
    sums = {
        name: sum(found[name] for found in shards.values())
        for name in ("captions", "unique_captions", "cut_captions", "tokens")
    }
    return {
        **sums,
        "dimension": max(found["dimension"] for found in shards.values()),
        "recheck_min_cosine": min(cosines, default=None),
    }
