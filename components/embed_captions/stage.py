"""Embed every caption once with each language model in use, for training never loads one (METHOD 2).

Reads:
    artifacts/recaption/captions/, artifacts/audit/kept/, artifacts/base_models/llm/, artifacts/tune_llm/llm/
    and encoding.json, artifacts/download/ (labels of the test split, for zero-shot prompts)
Writes:
    artifacts/embed_captions/<base|tuned>/<column>/00000.safetensors, .parquet, .json (figures);
    artifacts/embed_captions/<base|tuned>/prompts.*, the same of zero-shot prompts;
    metrics/embed_captions.json.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from components.embed_captions.embedding import Embedder, check_again
from components.embed_captions.llms import Llm
from components.embed_captions.sources import TextFile, caption_files, caption_shards, zero_shot_prompts
from components.running.output import output, write_metrics
from components.running.progress import Progress
from components.running.rows import Rows
from components.settings.embed_captions import EmbedCaptions
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import read_json
from components.storage.embeddings import EMBEDDED_PROMPTS, PROMPTS
from components.storage.layout import Layout
from components.storage.pieces import piece, put_files

STAGE = "embed_captions"


def run(params: Params, env: Environment) -> None:
    """Run the stage."""
    layout = Layout(env.work_store)
    own = params.embed_captions
    shards = caption_shards(layout.artifact("recaption"), layout.artifact("audit"))
    tasks, download = params.evaluate.zero_shot, layout.artifact("download")
    prompts = zero_shot_prompts(tasks, download, shards, layout.work(STAGE))
    rows = Rows()
    wanted = [file for shard in shards for file in caption_files(shard, rows)]
    if prompts:
        wanted.append(TextFile("", PROMPTS, EMBEDDED_PROMPTS, prompts))

    total = sum(len(file.lines) for file in wanted)
    progress = Progress(layout.work(STAGE), STAGE, total * len(own.llms), "captions")
    figures: dict[str, Any] = {}
    with output(layout, STAGE) as out:
        for name in own.llms:
            embedder = Embedder(Llm(name, layout, own, env.device), own, params.seed, progress.advance)
            for file in wanted:
                done = progress.done
                made = piece(layout.work(STAGE) / "pieces", embedder.key(file), partial(embedder.write, file))
                put_files(made, out.folder / name / file.folder)
                # those that share a text or were there
                progress.advance(len(file.lines) - (progress.done - done))
            figures[name] = _figures(out.folder / name, own)
    write_metrics(layout, STAGE, {**rows.figures(), "llms": figures})


def _figures(folder: Path, own: EmbedCaptions) -> dict[str, Any]:
    files = [read_json(path) for path in sorted(folder.rglob("*.json"))]
    for found in files:
        check_again(found, own)
    cosines = [found["recheck_min_cosine"] for found in files if found["recheck_min_cosine"]]
    sums = {
        name: sum(found[name] for found in files)
        for name in ("captions", "unique_captions", "cut_captions", "tokens")
    }
    return {
        **sums,
        "dimension": max(found["dimension"] for found in files),
        "recheck_min_cosine": min(cosines, default=None),
    }
