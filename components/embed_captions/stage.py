"""Embed every caption once with each model in use; training loads no such model (docs/method.md, 2).

Reads:
    artifacts/recaption/captions/, artifacts/audit/kept/, artifacts/base_models/llm/ and text_encoders/,
    artifacts/tune_llm/llm/ and encoding.json, artifacts/download/ (labels of the test split, for zero-shot
    prompts)
Writes:
    artifacts/embed_captions/<base|tuned|name>/<column>/00000.safetensors, .parquet, .json (figures);
    artifacts/embed_captions/<base|tuned|name>/prompts.*, the same for zero-shot prompts;
    metrics/embed_captions.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.embed_captions.embed_job import STAGE, embedders_of, fill, parts_of
from components.embed_captions.embedding import TEXTS, check_again
from components.embed_captions.encoders import encoders_of
from components.embed_captions.sources import (
    caption_files,
    caption_shards,
    prompts_file,
    zero_shot_prompts,
)
from components.embed_captions.survey import Missing, check_room, log_expected_time, log_work, survey
from components.planning.embed_captions import last_run
from components.planning.past_throughput import PastThroughput
from components.running.costs import SECONDS, Spent, load_spent, store_spent, together
from components.running.output import output, write_metrics
from components.running.rows import Rows
from components.settings.embed_captions import EmbedCaptions
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import read_json
from components.storage.layout import Layout
from components.storage.result_cache import put_files


def run(params: Params, env: Environment) -> None:
    """Run the stage."""
    layout = Layout(env.work_store)
    settings = params.embed_captions
    shards = caption_shards(layout.artifact("recaption"), layout.artifact("audit"))
    tasks, download = params.evaluate.zero_shot, layout.artifact("download")
    prompts = zero_shot_prompts(tasks, download, shards)
    encoders = encoders_of(settings, layout, env)
    embedders = embedders_of(encoders, params, layout, lambda _: None)
    missing = [Missing() for _ in encoders]
    rows = Rows()
    results: list[tuple[Path, Path]] = []
    for shard in [*shards, None] if prompts else shards:  # None stands for the prompts
        files = caption_files(shard, rows) if shard else [prompts_file(prompts)]
        survey(embedders, files, shard, missing)
        results += [
            (embedder.folder(file), Path(embedder.encoder.name, file.folder))
            for embedder in embedders
            for file in files
        ]
    parts = parts_of(env, encoders, missing)
    needed_bytes = log_work(encoders, missing, parts, is_bulk=bool(params.download.data_root))
    check_room(needed_bytes, (layout.work(STAGE), layout.artifact(STAGE)))
    can_sample = parts == 1 or env.device == "cpu"  # with several GPUs, only their own processes use them
    log_expected_time(encoders, missing, last_run(PastThroughput(layout), settings.names), can_try=can_sample)
    fill(parts, params, env, encoders, missing, prompts)
    store_spent(layout.work(STAGE), {name: together(_spent(results, name)) for name in settings.names})
    with output(layout, STAGE) as out:
        for folder, target in results:
            out.known += put_files(folder, out.folder, target.as_posix(), leave=(TEXTS, SECONDS))
        figures = {name: _figures(out.folder / name, settings) for name in settings.names}
    write_metrics(layout, STAGE, {**rows.figures(), "llms": figures})


def _spent(results: Sequence[tuple[Path, Path]], encoder: str) -> list[Spent]:
    """Return the seconds of each cached result of an encoder; parallel processes each count their own."""
    return [load_spent(folder) for folder, target in results if target.parts[0] == encoder]


def _figures(folder: Path, settings: EmbedCaptions) -> dict[str, Any]:
    files = [read_json(path) for path in sorted(folder.rglob("*.json"))]
    for figures in files:
        check_again(figures, settings)
    cosines = [figures["recheck_min_cosine"] for figures in files if figures["recheck_min_cosine"]]
    sums = {
        name: None
        if any(figures[name] is None for figures in files)
        else sum(figures[name] for figures in files)
        for name in ("captions", "unique_captions", "cut_captions", "tokens")
    }
    return {
        **sums,
        "dimension": max(figures["dimension"] for figures in files),
        "recheck_min_cosine": min(cosines, default=None),
    }
