"""Read every file of the artifacts and compare it with its manifest."""

from __future__ import annotations

from components.errors import DataError
from components.running.progress import Progress
from components.storage.hashes import known_sha256, remember_hashes
from components.storage.layout import MANIFEST, STAGES, Layout
from components.storage.manifest import RESTORE, listed

MEGABYTE = 1_000_000


def verify(layout: Layout) -> list[str]:
    """Return a line for each stage that has an artifact.

    Stages read a file once on a machine and go by its size and time of modification afterwards. This reads
    all, and stages go by what it finds. Files in a bucket are verified whenever they are used.

    Raises:
        DataError: files are missing or damaged, or there is no artifact; all of them are named.
    """
    stages = [stage for stage in STAGES if (layout.artifact(stage) / MANIFEST).is_file()]
    if not stages:
        raise DataError("there is nothing in artifacts/; `dvc repro` or `dvc pull` brings it")
    remember_hashes(layout.hashes)
    entries = {stage: listed(layout.artifact(stage)) for stage in stages}
    local = {stage: [entry for entry in entries[stage] if not entry.is_remote] for stage in stages}
    count = sum(entry.bytes for of_stage in local.values() for entry in of_stage)
    progress = Progress(layout.work_store / "verify", "verify", max(1, count // MEGABYTE), "MB")
    lines, wrong, read = [], [], 0
    for stage in stages:
        folder = layout.artifact(stage)
        for entry in local[stage]:
            path = folder / entry.uri
            if not path.is_file():
                wrong.append(f"{path} is missing")
            elif known_sha256(path, read=True) != entry.sha256:
                wrong.append(f"{path} is damaged")
            read += entry.bytes
            progress.advance(read // MEGABYTE - progress.done)
        of_stage = sum(entry.bytes for entry in local[stage])
        remote = len(entries[stage]) - len(local[stage])
        lines.append(
            f"{stage:15} {len(local[stage]):7,} files {of_stage / MEGABYTE:11,.1f} MB"
            + (f", {remote:,} more in a bucket, verified when they are used" if remote else "")
        )
    if wrong:
        raise DataError("\n".join([*wrong, RESTORE]))
    return [*lines, "every file is the one that its manifest lists"]
