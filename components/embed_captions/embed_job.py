"""Embed missing texts in this process or in several: one for each GPU, or some on the CPU cores.

Each process writes the cached results of its own shards. A cached result depends on its file alone, so the
number of processes changes no bit; the number of threads may (LLM2CLIP_THREADS sets it).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from components.embed_captions.embedding import Embedder
from components.embed_captions.encoder import Encoder
from components.embed_captions.encoders import encoders_of
from components.embed_captions.sources import CaptionShard, Prompt, caption_files, prompts_file
from components.embed_captions.survey import Missing
from components.planning.embed_captions import title
from components.running.gpus import gpu_of, gpus_in_use, share_of, use_only
from components.running.jobs import Modules, ProgressReporter
from components.running.progress import Progress
from components.running.rows import Rows
from components.running.workers import finished_pieces, usable_cores
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.bulk import open_data_root
from components.storage.layout import Layout

STAGE = "embed_captions"
TEXTS_A_PROCESS = 5_000  # fewer are embedded in this process before another has started
MEMORY_A_PROCESS = 500_000_000  # bytes, besides the model
MODULES = Modules(imported=("components.embed_captions.embed_job", "components.ml.text.encoder"))


@dataclass(frozen=True)
class EmbedJob:
    """Job of one process: embed some shards.

    Attributes:
        params: Of the run.
        env: Of the run, with the process's share of the cores.
        shards: By the encoder's name; None stands for the prompts.
        prompts: Of zero-shot tasks.
        gpu: The GPU to use, if any.
        threads: Number of torch's threads; 0 leaves torch's default.
    """

    params: Params
    env: Environment
    shards: dict[str, list[CaptionShard | None]]
    prompts: list[Prompt]
    gpu: str | None
    threads: int

    def __call__(self, reporter: ProgressReporter) -> None:
        """Embed the texts that are missing."""
        if self.gpu is not None:
            use_only(self.gpu)
        elif self.threads:
            import torch

            torch.set_num_threads(self.threads)
        layout = Layout(self.env.work_store)
        encoders = encoders_of(self.params.embed_captions, layout, self.env)
        for embedder in embedders_of(encoders, self.params, layout, reporter.advance):
            make(embedder, self.shards.get(embedder.encoder.name, []), self.prompts)


def embedders_of(
    encoders: Sequence[Encoder], params: Params, layout: Layout, progress: Callable[[int], None]
) -> list[Embedder]:
    """Return one embedder for each encoder."""
    store = layout.work(STAGE) / "pieces"
    uri = params.download.data_root
    root = open_data_root(uri) if uri else None
    return [
        Embedder(encoder, params.embed_captions, params.seed, store, root, progress) for encoder in encoders
    ]


def make(embedder: Embedder, shards: Sequence[CaptionShard | None], prompts: list[Prompt]) -> None:
    """Embed the texts of these shards, and the prompts where a shard is None.

    The model is released afterwards, because the next encoder may need all the memory.
    """
    for shard in shards:
        files = caption_files(shard, Rows()) if shard else [prompts_file(prompts)]
        for file in files:
            embedder.made(file)
    embedder.encoder.release()


def fill(parts: int, params: Params, env: Environment, encoders: Sequence[Encoder],
         found: Sequence[Missing], prompts: list[Prompt]) -> None:  # fmt: skip
    """Embed all texts that are missing, in `parts` processes.

    Raises:
        PipelineError: an encoder fails.
    """
    layout = Layout(env.work_store)
    new = sum(missing.new for missing in found)
    progress = Progress(layout.work(STAGE), title([encoder.name for encoder in encoders]), new, "texts")
    if parts > 1:
        _fill_by(parts, params, env, encoders, found, prompts, progress)
    for embedder, missing in zip(
        embedders_of(encoders, params, layout, progress.advance), found, strict=True
    ):
        if parts == 1 or not embedder.encoder.made_by:
            make(embedder, missing.shards, prompts)


def _fill_by(
    parts: int,
    params: Params,
    env: Environment,
    encoders: Sequence[Encoder],
    all_missing: Sequence[Missing],
    prompts: list[Prompt],
    progress: Progress,
) -> None:
    """Embed in `parts` processes with the encoders that run on this machine."""
    shards_by_encoder = [
        (encoder.name, missing.shards)
        for encoder, missing in zip(encoders, all_missing, strict=True)
        if encoder.made_by
    ]
    gpus = [gpu_of(index) for index in range(parts)] if env.device == "cuda" else [None] * parts
    threads = env.threads or max(1, usable_cores() // parts)
    jobs = (
        EmbedJob(
            params,
            share_of(env, parts),
            {name: shards[index::parts] for name, shards in shards_by_encoder},
            prompts,
            gpu,
            threads,
        )
        for index, gpu in enumerate(gpus)
    )
    store = Layout(env.work_store).work(STAGE) / "pieces"
    with finished_pieces(jobs, parts, progress, MODULES, store) as finished:
        list(finished)


def parts_of(env: Environment, encoders: Sequence[Encoder], found: Sequence[Missing]) -> int:
    """Return the number of processes to use: one for each GPU, or as many as cores and memory allow."""
    local = [(encoder, missing) for encoder, missing in zip(encoders, found, strict=True) if encoder.made_by]
    shards = max((len(missing.shards) for _, missing in local), default=0)
    texts = sum(missing.new for _, missing in local)
    max_parts = min(shards, texts // TEXTS_A_PROCESS)
    if max_parts < 2:
        return 1
    if gpus := gpus_in_use(env):
        return min(max_parts, gpus)
    if env.processes:
        return min(max_parts, env.processes)
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    process_bytes = max(encoder.model_bytes() for encoder, _ in local) + MEMORY_A_PROCESS
    return max(1, min(max_parts, usable_cores(), memory_bytes // process_bytes))
