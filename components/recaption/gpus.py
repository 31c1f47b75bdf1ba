"""Use several GPUs of one machine: one process per GPU writes the slow results for its own shards.

Each process fills the cache of results that the stage would otherwise fill itself, shard by shard; the stage
then reads them from there. Captions depend only on their shard, so the number of GPUs does not change them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.recaption.captioners.choose import captioners_of
from components.recaption.shard import RecaptionShards, check_columns, drafts_of
from components.running.gpus import gpu_of, gpus_in_use, share_of, use_only
from components.running.jobs import Modules, ProgressReporter
from components.running.progress import Progress
from components.running.workers import finished_pieces
from components.settings.environment import Environment
from components.settings.params import Params
from components.settings.recaption import Recaption
from components.storage.layout import Layout
from components.storage.manifest import Entry

ELSEWHERE = ("columns", "endpoint")  # kinds that use no GPU of this machine
MODULES = Modules(imported=("components.recaption.gpus", "components.recaption.scores.scoring"))


@dataclass(frozen=True)
class DraftJob:
    """The job of one GPU: its shards, in a separate process.

    Attributes:
        params: Params of the run.
        env: Environment of the run, with the process's share of the cores.
        entries: Manifest entries of the shards; verified.
        gpu: The GPU to use.
    """

    params: Params
    env: Environment
    entries: Sequence[Entry]
    gpu: str

    def __call__(self, reporter: ProgressReporter) -> None:
        """Write the captions of all models and the image embeddings of the base CLIP."""
        use_only(self.gpu)
        env, section = self.env, self.params.recaption
        layout = Layout(env.work_store)
        captioners = list(captioners_of(self.params, layout.artifact("base_models"), env))
        slow = slow_captioners(section)
        scorer = None
        if section.scores:
            from components.recaption.scores.scoring import Scorer

            scorer = Scorer(section.scores, layout, env, reporter.advance)
        for shard in RecaptionShards(layout.artifact("download"), self.entries, layout.work("recaption")):
            check_columns(captioners, shard.captions)
            for captioner in captioners:
                if captioner.name in slow:
                    drafts_of(shard, captioner, reporter)
            if scorer:
                scorer.image_piece(shard)


def slow_captioners(section: Recaption) -> set[str]:
    """Return the names of the captioners that use a GPU of this machine."""
    return {captioner.name for captioner in section.captioners if captioner.kind not in ELSEWHERE}


def gpus_of(params: Params, env: Environment, shards: int) -> int:
    """Return the number of GPUs to use."""
    if not (params.recaption.scores or slow_captioners(params.recaption)):
        return 0
    return min(gpus_in_use(env), shards)


def fill(params: Params, env: Environment, entries: Sequence[Entry], parts: int, gpus: int) -> None:
    """Write the slow results with one process per GPU; finished results are kept even after a failure.

    Args:
        params: Params of the run.
        env: Environment of the run.
        entries: All shards of download; verified.
        parts: Number of parts written for each row by all captioners that use a GPU.
        gpus: Number of GPUs.

    Raises:
        PipelineError: as in the stage itself.
    """
    work = Layout(env.work_store).work("recaption")
    rows = sum(entry.rows or 0 for entry in entries)
    total = rows * (parts + (params.recaption.scores is not None))
    progress = Progress(work, f"recaption by {gpus} GPUs", total, "rows")
    share = share_of(env, gpus)
    jobs = (
        DraftJob(params, share, gpu_entries, gpu_of(index))
        for index, gpu_entries in enumerate(shares_of(entries, gpus))
    )
    with finished_pieces(jobs, gpus, progress, MODULES, work / "pieces") as ended:
        list(ended)


def shares_of(entries: Sequence[Entry], parts: int) -> list[list[Entry]]:
    """Return each process's shards; shards of equal bytes share cached results, so they go to one process."""
    by_content: dict[str, list[Entry]] = {}
    for entry in entries:
        by_content.setdefault(entry.sha256, []).append(entry)
    groups = list(by_content.values())
    return [[entry for group in groups[index::parts] for entry in group] for index in range(parts)]
