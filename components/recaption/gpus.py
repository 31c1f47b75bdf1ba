"""Several GPUs of one machine: a process for each writes what is slow to write, for shards of its own.

What it writes are the finished pieces that the stage would write itself, one shard after the other; the stage
then finds them there. Captions depend on their shard alone, so the number of GPUs changes none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.recaption.captioners.choose import captioners_of
from components.recaption.shard import RecaptionShard, check_columns, drafts_of
from components.running.gpus import gpu_of, gpus_in_use, share_of, use_only
from components.running.jobs import Modules, ProgressReporter
from components.running.progress import Progress
from components.running.workers import finished_pieces
from components.settings.environment import Environment
from components.settings.params import Params
from components.settings.recaption import Recaption
from components.storage.layout import Layout
from components.storage.manifest import Entry

ELSEWHERE = ("columns", "endpoint")  # take no GPU of this machine
MODULES = Modules(imported=("components.recaption.gpus", "components.recaption.scores.scoring"))


@dataclass(frozen=True)
class DraftJob:
    """The shards of one GPU; a job for a process of its own.

    Attributes:
        params: Of the run.
        env: Likewise, with the process's share of the cores.
        entries: The shards; verified.
        gpu: The one to use.
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
        download = layout.artifact("download")
        for entry in self.entries:
            shard = RecaptionShard(download, entry, layout.work("recaption"))
            check_columns(captioners, shard.captions)
            for captioner in captioners:
                if captioner.name in slow:
                    drafts_of(shard, captioner, reporter)
            if scorer:
                scorer.image_piece(shard)


def slow_captioners(section: Recaption) -> set[str]:
    """Return the names of those that take a GPU of this machine."""
    return {one.name for one in section.captioners if one.kind not in ELSEWHERE}


def gpus_of(params: Params, env: Environment, shards: int) -> int:
    """Return how many GPUs there is work for."""
    if not (params.recaption.scores or slow_captioners(params.recaption)):
        return 0
    return min(gpus_in_use(env), shards)


def fill(params: Params, env: Environment, entries: Sequence[Entry], parts: int, gpus: int) -> None:
    """Have so many processes write what is slow; what they finished is kept, however this ends.

    Args:
        params: Of the run.
        env: Likewise.
        entries: All shards of download; verified.
        parts: How often each row is written for, by all captioners that take a GPU.
        gpus: How many.

    Raises:
        PipelineError: as the stage itself would.
    """
    work = Layout(env.work_store).work("recaption")
    rows = sum(entry.rows or 0 for entry in entries)
    total = rows * (parts + (params.recaption.scores is not None))
    progress = Progress(work, f"recaption by {gpus} GPUs", total, "rows")
    share = share_of(env, gpus)
    jobs = (
        DraftJob(params, share, mine, gpu_of(place)) for place, mine in enumerate(shares_of(entries, gpus))
    )
    with finished_pieces(jobs, gpus, progress, MODULES, work / "pieces") as ended:
        list(ended)


def shares_of(entries: Sequence[Entry], parts: int) -> list[list[Entry]]:
    """Return each process's shards: those of equal bytes, as empty ones are, share pieces, and so one."""
    by_content: dict[str, list[Entry]] = {}
    for entry in entries:
        by_content.setdefault(entry.sha256, []).append(entry)
    groups = list(by_content.values())
    return [[entry for group in groups[place::parts] for entry in group] for place in range(parts)]
