"""Embed every caption once with each model in use, for training never loads one (docs/method.md, 2).

Reads:
    artifacts/recaption/captions/, artifacts/audit/kept/, artifacts/base_models/llm/ and text_encoders/,
    artifacts/tune_llm/llm/ and encoding.json, artifacts/download/ (labels of the test split, for zero-shot
    prompts)
Writes:
    artifacts/embed_captions/<base|tuned|name>/<column>/00000.safetensors, .parquet, .json (figures);
    artifacts/embed_captions/<base|tuned|name>/prompts.*, the same of zero-shot prompts;
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
from components.embed_captions.survey import Missing, check_room, survey, tell, tell_time
from components.planning.embed_captions import last_run
from components.planning.past_throughput import PastThroughput
from components.running.costs import SECONDS, Spent, kept_spent, tell_spent, together
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
    own = params.embed_captions
    shards = caption_shards(layout.artifact("recaption"), layout.artifact("audit"))
    tasks, download = params.evaluate.zero_shot, layout.artifact("download")
    prompts = zero_shot_prompts(tasks, download, shards)
    encoders = encoders_of(own, layout, env)
    embedders = embedders_of(encoders, params, layout, lambda _: None)
    found = [Missing() for _ in encoders]
    rows = Rows()
    pieces: list[tuple[Path, Path]] = []
    for shard in [*shards, None] if prompts else shards:  # None stands for the prompts
        files = caption_files(shard, rows) if shard else [prompts_file(prompts)]
        survey(embedders, files, shard, found)
        pieces += [
            (one.folder(file), Path(one.encoder.name, file.folder)) for one in embedders for file in files
        ]
    parts = parts_of(env, encoders, found)
    room = tell(encoders, found, parts, is_bulk=bool(params.download.data_root))
    check_room(room, (layout.work(STAGE), layout.artifact(STAGE)))
    is_here = parts == 1 or env.device == "cpu"  # several GPUs are left to their own processes
    tell_time(encoders, found, last_run(PastThroughput(layout), own.names), can_try=is_here)
    fill(parts, params, env, encoders, found, prompts)
    tell_spent(layout.work(STAGE), {name: together(_spent(pieces, name)) for name in own.names})
    with output(layout, STAGE) as out:
        for folder, place in pieces:
            out.known += put_files(folder, out.folder, place.as_posix(), leave=(TEXTS, SECONDS))
        figures = {name: _figures(out.folder / name, own) for name in own.names}
    write_metrics(layout, STAGE, {**rows.figures(), "llms": figures})


def _spent(pieces: Sequence[tuple[Path, Path]], encoder: str) -> list[Spent]:
    """Return the seconds behind each piece of an encoder; processes side by side count each its own."""
    return [kept_spent(folder) for folder, place in pieces if place.parts[0] == encoder]


def _figures(folder: Path, own: EmbedCaptions) -> dict[str, Any]:
    files = [read_json(path) for path in sorted(folder.rglob("*.json"))]
    for found in files:
        check_again(found, own)
    cosines = [found["recheck_min_cosine"] for found in files if found["recheck_min_cosine"]]
    sums = {
        name: None if any(found[name] is None for found in files) else sum(found[name] for found in files)
        for name in ("captions", "unique_captions", "cut_captions", "tokens")
    }
    return {
        **sums,
        "dimension": max(found["dimension"] for found in files),
        "recheck_min_cosine": min(cosines, default=None),
    }
