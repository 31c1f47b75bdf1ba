"""Read every artifact file and compare it with its manifest."""

from __future__ import annotations

from components.errors import DataError
from components.running.progress import Progress
from components.storage.hashes import known_sha256, remember_hashes
from components.storage.layout import MANIFEST, STAGES, Layout
from components.storage.manifest import RESTORE, listed

MEGABYTE = 1_000_000


def verify(layout: Layout) -> list[str]:
    """Return a line for each stage that has an artifact.

    A stage reads a file once on a machine and checks its size and time of modification afterwards. This
    command reads all files, and stages use its result. Files in a bucket are verified whenever they are used.

    Raises:
        DataError: there is no artifact, or files are missing or damaged; names all of them.
    """
    stages = [stage for stage in STAGES if (layout.artifact(stage) / MANIFEST).is_file()]
    if not stages:
        raise DataError(
            "artifacts/ is empty; expected the artifact of a stage: run `dvc repro` or `dvc pull`"
        )
    remember_hashes(layout.hashes)
    entries = {stage: listed(layout.artifact(stage)) for stage in stages}
    local = {stage: [entry for entry in entries[stage] if not entry.is_remote] for stage in stages}
    total_bytes = sum(entry.bytes for stage_entries in local.values() for entry in stage_entries)
    progress = Progress(layout.work_store / "verify", "verify", max(1, total_bytes // MEGABYTE), "MB")
    lines, problems, read_bytes = [], [], 0
    for stage in stages:
        folder = layout.artifact(stage)
        for entry in local[stage]:
            path = folder / entry.uri
            if not path.is_file():
                problems.append(f"{path} is missing")
            elif known_sha256(path, read=True) != entry.sha256:
                problems.append(f"{path} is damaged")
            read_bytes += entry.bytes
            progress.advance(read_bytes // MEGABYTE - progress.done)
        stage_bytes = sum(entry.bytes for entry in local[stage])
        remote = len(entries[stage]) - len(local[stage])
        lines.append(
            f"{stage:15} {len(local[stage]):7,} files {stage_bytes / MEGABYTE:11,.1f} MB"
            + (f", {remote:,} more in a bucket, verified when they are used" if remote else "")
        )
    if problems:
        raise DataError("\n".join([*problems, RESTORE]))
    return [*lines, "every file is as its manifest lists it"]
