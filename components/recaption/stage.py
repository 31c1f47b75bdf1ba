"""Write more captions for the images of download: by models that look at them, or out of their own columns.

Reads:
    artifacts/download/shards/: images, and the captions that the source gave them.
    artifacts/base_models/captioner/: where params name a captioner of kind `model`.
    artifacts/base_models/clip/: where params ask for scores.
    artifacts/base_models/vision_language/: where params name a captioner of kind `vision_language` or `vllm`.

Writes:
    artifacts/recaption/captions/<shard>.parquet: all captions of the shard's rows, old and new.
    artifacts/recaption/rejected/<shard>.parquet: what was written and is no caption, with the reason; of the
        captions of sources as well, where params say that a model wrote them.
    artifacts/recaption/{image_embeddings,scores}/<shard>.*: what the base CLIP says of them, see `scoring`.
    metrics/recaption.json: captions by column, rejected ones by reason, and how right they are where there is
        ground truth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import ConfigurationError, DataError, InfrastructureError
from components.http.retry import MAY_PASS
from components.recaption.captioners.captioner import Captioner
from components.recaption.captioners.choose import captioners_of
from components.recaption.captioners.columns import FromSources
from components.recaption.filters.divide import Filters, RepeatedCaptions
from components.recaption.gpus import fill, gpus_of, slow_captioners
from components.recaption.scores.quality import Quality
from components.recaption.shard import (
    RecaptionShard,
    check_columns,
    drafts_of,
    is_lacking,
    rounds_of,
)
from components.running.output import output, write_metrics
from components.running.progress import Progress
from components.running.rows import Rows
from components.settings.environment import Environment
from components.settings.params import Params
from components.settings.recaption import ModelCaptioner, Recaption
from components.storage.attempts import mark_for_retry
from components.storage.layout import Layout
from components.storage.manifest import Entry
from components.storage.shards import shards_of
from components.storage.side_tables import Caption, Draft, write_captions, write_drafts

if TYPE_CHECKING:
    from components.recaption.scores.scoring import Scorer


def run(params: Params, env: Environment) -> None:
    """Run the stage; a row is one caption asked for, or one that a model wrote for a source."""
    layout = Layout(env.work_store)
    work = layout.work("recaption")
    captioners = list(captioners_of(params, layout.artifact("base_models"), env))
    download = layout.artifact("download")
    entries = _entries(download)
    _check_sources(captioners, _shards(download, entries, work))
    if (gpus := gpus_of(params, env, len(entries))) > 1:
        slow = [one for one in captioners if one.name in slow_captioners(params.recaption)]
        fill(params, env, entries, sum(len(one.parts()) for one in slow), gpus)
    given = FromSources(params.download.sources)
    crowd = _write_drafts(captioners, given, download, entries, params.recaption, work)
    judging = Filters(params.recaption.gates, crowd)
    qualities = _qualities(params.recaption)
    scorer = _scorer(params.recaption, layout, env, entries)
    columns: Counter[str] = Counter()
    with output(layout, "recaption") as out:
        for shard in _shards(download, entries, work):
            captions, rejected = _judged(judging, captioners, given, shard)
            columns.update(caption.column for caption in captions)
            for quality in qualities.values():
                quality.add(captions)
            name = f"{shard.entry.name}.parquet"
            write_captions(out.folder / "captions" / name, captions)
            write_drafts(out.folder / "rejected" / name, rejected)
            out.rows |= {f"captions/{name}": len(captions), f"rejected/{name}": len(rejected)}
            if scorer:
                out.known += scorer.write(shard, captions, out.folder)
        if captioners or judging.rows().rows_in:
            _check_rows(judging.rows(), params, layout, captioners, _shards(download, entries, work))
        scores = scorer.figures() if scorer else None
    figures = {
        **judging.figures(),
        "captions": dict(sorted(columns.items())),
        "quality": {name: quality.figures() for name, quality in qualities.items()},
        "scores": scores,
    }
    write_metrics(layout, "recaption", figures)


def _write_drafts(
    captioners: list[Captioner],
    given: FromSources,
    download: Path,
    entries: list[Entry],
    section: Recaption,
    work: Path,
) -> RepeatedCaptions:
    """Have every captioner write for every shard what is not there yet; return what all texts show."""
    crowd = RepeatedCaptions({str(kind): count for kind, count in section.gates.max_images_per_text.items()})
    parts = sum(len(captioner.parts()) for captioner in captioners)
    total = sum(entry.rows or 0 for entry in entries) * parts
    progress = Progress(work, "recaption", total, "rows")
    for shard in _shards(download, entries, work):
        check_columns(captioners, shard.captions)
        crowd.add(given, given.drafts(shard.captions))
        for captioner in captioners:
            crowd.add(captioner, drafts_of(shard, captioner, progress))
    return crowd


def _judged(
    judging: Filters, captioners: list[Captioner], given: FromSources, shard: RecaptionShard
) -> tuple[list[Caption], list[Draft]]:
    """Return all captions of a shard, those of the source first, and what a model wrote that is none."""
    _, rejected = judging.divide(given, given.drafts(shard.captions))
    refused = {draft.caption for draft in rejected}
    captions = [caption for caption in shard.captions if caption not in refused]
    for captioner in captioners:
        good, bad = judging.divide(captioner, drafts_of(shard, captioner))
        captions += good
        rejected += bad
    return captions, rejected


def _check_rows(
    rows: Rows, params: Params, layout: Layout, captioners: list[Captioner], shards: Iterator[RecaptionShard]
) -> None:
    """Check balance and limit; where they do not hold, the next run asks again for what may come by then.

    Raises:
        DataError: no caption is left, or too many were rejected.
        InfrastructureError: the same, and failures that may pass are the reason.
    """
    share = params.recaption.max_reject_share
    try:
        rows.check(share, "recaption", params, layout)
    except DataError:
        for shard in shards:
            for captioner in captioners:
                for part in captioner.parts():
                    latest = rounds_of(shard, captioner, part).latest()
                    if latest and is_lacking(latest):
                        mark_for_retry(latest)
        passing = {reason: count for reason, count in rows.rejected.items() if reason in MAY_PASS}
        failed = sum(passing.values())
        others = sum(rows.rejected.values()) - failed
        if failed and others <= share * rows.rows_in:
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(passing.items()))
            raise InfrastructureError(
                f"the endpoint failed: {failed} of {rows.rows_in} captions did not come ({reasons}); "
                "expected no more than recaption.max_reject_share: mend the server and run again for these"
            ) from None
        raise


def _scorer(section: Recaption, layout: Layout, env: Environment, entries: list[Entry]) -> Scorer | None:
    if section.scores is None:
        return None
    from components.recaption.scores.scoring import Scorer

    images = sum(entry.rows or 0 for entry in entries)
    progress = Progress(layout.work("recaption"), "recaption scores", images, "images")
    return Scorer(section.scores, layout, env, progress.advance)


def _qualities(section: Recaption) -> dict[str, Quality]:
    return {
        one.name: Quality({kind: f"{one.name}_{kind}" for kind in one.writes})
        for one in section.captioners
        if isinstance(one, ModelCaptioner)
    }


def _entries(download: Path) -> list[Entry]:
    entries = shards_of(download)
    if not entries:
        raise DataError(f"{download} holds no shard; expected at least one: run `dvc repro download`")
    return entries


def _shards(download: Path, entries: list[Entry], work: Path) -> Iterator[RecaptionShard]:
    """Yield each shard anew: one keeps the pairs it has read, and few may be in memory."""
    for entry in entries:
        yield RecaptionShard(download, entry, work)


def _check_sources(captioners: list[Captioner], shards: Iterator[RecaptionShard]) -> None:
    """Stop before any captioner works where one reads a column that no row of a split has.

    A split without rows is no mistake.
    """
    if not any(captioner.sources() for captioner in captioners):
        return
    given = {(caption.column, caption.split) for shard in shards for caption in shard.captions}
    splits = {split for _, split in given}
    absent = [
        f"{captioner.name} reads column {column}, which no row of {split} has"
        for captioner in captioners
        for column, split in sorted(captioner.sources() - given)
        if split in splits
    ]
    if absent:
        columns = ", ".join(f"{column} ({split})" for column, split in sorted(given))
        raise ConfigurationError(
            f"recaption.captioners {'; '.join(absent)}; expected one of {columns}: correct its source, "
            "or leave the split out of its splits"
        )
