"""Write more captions for the images of download: by vision models, or from existing columns.

Reads:
    artifacts/download/shards/: images, and their captions from the source.
    artifacts/base_models/captioner/: if params name a captioner of kind `model`.
    artifacts/base_models/clip/: if params enable scores.
    artifacts/base_models/vision_language/: if params name a captioner of kind `vision_language` or `vllm`.

Writes:
    artifacts/recaption/captions/<shard>.parquet: all captions of the shard's rows, old and new.
    artifacts/recaption/rejected/<shard>.parquet: rejected drafts with their reasons, including captions of
        sources that a model wrote according to params.
    artifacts/recaption/{image_embeddings,scores}/<shard>.*: embeddings and scores of the base CLIP, see
        `scoring`.
    metrics/recaption.json: captions by column, rejected ones by reason, and their quality if there is ground
        truth.
"""

from __future__ import annotations

from collections import Counter
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
    RecaptionShards,
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
    """Run the stage; a row is one requested caption, or one that a model wrote for a source."""
    layout = Layout(env.work_store)
    work = layout.work("recaption")
    captioners = list(captioners_of(params, layout.artifact("base_models"), env))
    download = layout.artifact("download")
    entries = _entries(download)
    shards = RecaptionShards(download, entries, work)
    _check_sources(captioners, shards)
    if (gpus := gpus_of(params, env, len(entries))) > 1:
        slow = [captioner for captioner in captioners if captioner.name in slow_captioners(params.recaption)]
        fill(params, env, entries, sum(len(captioner.parts()) for captioner in slow), gpus)
    sources = FromSources(params.download.sources)
    repeated_captions = _write_drafts(captioners, sources, shards, params.recaption)
    filters = Filters(params.recaption.gates, repeated_captions)
    qualities = _qualities(params.recaption)
    scorer = _scorer(params.recaption, layout, env, entries)
    columns: Counter[str] = Counter()
    with output(layout, "recaption") as out:
        for shard in shards:
            captions, rejected = _filtered(filters, captioners, sources, shard)
            columns.update(caption.column for caption in captions)
            for quality in qualities.values():
                quality.add(captions)
            name = f"{shard.entry.name}.parquet"
            write_captions(out.folder / "captions" / name, captions)
            write_drafts(out.folder / "rejected" / name, rejected)
            out.rows |= {f"captions/{name}": len(captions), f"rejected/{name}": len(rejected)}
            if scorer:
                out.known += scorer.write(shard, captions, out.folder)
        if captioners or filters.rows().rows_in:
            _check_rows(filters.rows(), params, layout, captioners, shards)
        scores = scorer.figures() if scorer else None
    figures = {
        **filters.figures(),
        "captions": dict(sorted(columns.items())),
        "quality": {name: quality.figures() for name, quality in qualities.items()},
        "scores": scores,
    }
    write_metrics(layout, "recaption", figures)


def _write_drafts(
    captioners: list[Captioner],
    sources: FromSources,
    shards: RecaptionShards,
    section: Recaption,
) -> RepeatedCaptions:
    """Write the missing drafts of every captioner for every shard; return counts of repeated captions."""
    repeated_captions = RepeatedCaptions(
        {str(kind): count for kind, count in section.gates.max_images_per_text.items()}
    )
    parts = sum(len(captioner.parts()) for captioner in captioners)
    total = sum(entry.rows or 0 for entry in shards.entries) * parts
    progress = Progress(shards.work, "recaption", total, "rows")
    for shard in shards:
        check_columns(captioners, shard.captions)
        repeated_captions.add(sources, sources.drafts(shard.captions))
        for captioner in captioners:
            repeated_captions.add(captioner, drafts_of(shard, captioner, progress))
    return repeated_captions


def _filtered(
    filters: Filters, captioners: list[Captioner], sources: FromSources, shard: RecaptionShard
) -> tuple[list[Caption], list[Draft]]:
    """Return all accepted captions of a shard, those of the source first, and the rejected drafts."""
    _, rejected = filters.divide(sources, sources.drafts(shard.captions))
    rejected_captions = {draft.caption for draft in rejected}
    captions = [caption for caption in shard.captions if caption not in rejected_captions]
    for captioner in captioners:
        accepted, newly_rejected = filters.divide(captioner, drafts_of(shard, captioner))
        captions += accepted
        rejected += newly_rejected
    return captions, rejected


def _check_rows(
    rows: Rows, params: Params, layout: Layout, captioners: list[Captioner], shards: RecaptionShards
) -> None:
    """Check the row counts and the reject limit; on failure mark transient failures for a retry.

    Raises:
        DataError: no caption is left, or too many were rejected.
        InfrastructureError: the same, because of transient failures.
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
        transient = {reason: count for reason, count in rows.rejected.items() if reason in MAY_PASS}
        failed = sum(transient.values())
        other_rejects = sum(rows.rejected.values()) - failed
        if failed and other_rejects <= share * rows.rows_in:
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(transient.items()))
            raise InfrastructureError(
                f"the endpoint failed: {failed} of {rows.rows_in} captions did not come ({reasons}); "
                "expected no more than recaption.max_reject_share; fix the server and rerun for these"
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
        captioner.name: Quality({kind: f"{captioner.name}_{kind}" for kind in captioner.writes})
        for captioner in section.captioners
        if isinstance(captioner, ModelCaptioner)
    }


def _entries(download: Path) -> list[Entry]:
    entries = shards_of(download)
    if not entries:
        raise DataError(f"{download} holds no shard; expected at least one; run `dvc repro download`")
    return entries


def _check_sources(captioners: list[Captioner], shards: RecaptionShards) -> None:
    """Fail before any captioner runs if one reads a column that no row of a split has.

    A split without rows is no error.
    """
    if not any(captioner.sources() for captioner in captioners):
        return
    existing = {(caption.column, caption.split) for shard in shards for caption in shard.captions}
    splits = {split for _, split in existing}
    absent = [
        f"{captioner.name} reads column {column}, which no row of {split} has"
        for captioner in captioners
        for column, split in sorted(captioner.sources() - existing)
        if split in splits
    ]
    if absent:
        columns = ", ".join(f"{column} ({split})" for column, split in sorted(existing))
        raise ConfigurationError(
            f"recaption.captioners {'; '.join(absent)}; expected one of {columns}; correct its source, "
            "or leave the split out of its splits"
        )
