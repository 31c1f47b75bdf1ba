"""Train each arm: CLIP's vision tower against LLM embeddings of captions, and its controls on the same data.

Reads
    artifacts/download/shards/                images (splits train and validation)
    artifacts/recaption/captions/             which captions the caption mix draws from
    artifacts/audit/kept/, verdict.json       the rows that passed, and whether the audit passed
    artifacts/embed_captions/<tuned|base|name>/    for arms whose text is an LLM's or another encoder's
    artifacts/tune_llm/, base_models/         the models that must have made these
    artifacts/base_models/clip/               the base CLIP that every arm starts from
Writes
    artifacts/train_clip/<arm>/               vision_encoder/ and text_adapter/, or clip/; model.json
    artifacts/train_clip/history/<arm>.csv    step, loss, recall on validation
    artifacts/train_clip/arms.json            the arms in the order of params
    metrics/train_clip.json
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from components.errors import ConfigurationError, DataError
from components.ml.vision.augmentation import MAX_SHRINK
from components.ml.vision.clip import load_base
from components.ml.vision.pixels import decode_image
from components.ml.vision.towers import image_size_of
from components.running.costs import SECONDS, keep_spent, load_spent, store_spent
from components.running.held_out import HeldOutVectors, read_held_out, task_captions
from components.running.output import output, write_metrics
from components.running.rows import Rows
from components.running.training import history_csv
from components.settings.environment import Environment
from components.settings.params import Params
from components.settings.train_clip import Arm as ArmSettings
from components.settings.train_clip import TrainClip, ValidationSettings
from components.storage.atomic import content_key, read_json, remove, write_bytes, write_json
from components.storage.audited_rows import kept_shards, require_verdict
from components.storage.computed import code_of
from components.storage.layout import Layout
from components.storage.manifest import folder_key
from components.storage.pixels import decoded
from components.storage.result_cache import get_or_build, put_files
from components.storage.side_tables import CAPTION_TEXTS
from components.train_clip.arms import about_arm, build_arm
from components.train_clip.examples import Examples
from components.train_clip.texts import CachedTexts, FalseNegativeFilter, PlainTexts, cached_texts
from components.train_clip.training import flops_of_step, train_arm
from components.train_clip.validation import MEAN, Validation

STAGE = "train_clip"
OWN = "own"  # `text` of an arm that keeps CLIP's own text tower
DIGITS = 6
GUIDE = "tuned"  # the encoder whose embeddings find captions of equal meaning


def run(params: Params, env: Environment) -> None:
    """Train the arms in params that are not trained yet."""
    layout, settings = Layout(env.work_store), params.train_clip
    require_verdict(layout)
    work, clip = layout.work(STAGE), layout.artifact("base_models") / "clip"
    clip_key = folder_key(layout.artifact("base_models"), "clip/")
    try:
        image_size = image_size_of(load_base(clip))
    except ValueError as error:
        raise DataError(f"{error}; `llm2clip forget base_models clip` has it made again") from None
    rows = Rows()
    examples = _examples(layout, settings, image_size, rows)
    identity = {
        "params": settings.model_dump(exclude={"arms", "equal_cost", "checkpoint_steps"}),
        "seed": params.seed,
        "data": {
            "captions": examples.digest(),
            "images": content_key(examples.pixels.names),
            "clip": clip_key,
        },
        "code": code_of(work, STAGE, "arms"),
    }

    folders = []
    cosine = settings.false_negative_cosine
    needed = {arm.text for arm in settings.arms} | ({GUIDE} if cosine is not None else set())
    cached = {
        name: cached_texts(layout, name, examples, params.embed_captions) for name in sorted(needed - {OWN})
    }
    pa.default_memory_pool().release_unused()  # frees the memory of reading, before hours of training
    guide = FalseNegativeFilter(cached[GUIDE], cosine) if cosine is not None else None
    texts: dict[str, CachedTexts | PlainTexts] = {**cached}
    if OWN in needed:
        texts[OWN] = PlainTexts(examples.captions["text"])
    validations = _validations(layout, params, image_size)
    for arm in settings.arms:
        text, validation = texts[arm.text], validations.get(arm.text)
        made_by = [getattr(source, "about", None) for source in (text, guide and guide.texts)]
        arm_identity = {**identity, "arm": arm.model_dump(), "embeddings": made_by}
        arm_identity["validation"] = validation.digest() if validation else None
        make = partial(_train, arm, text, examples, guide, validation, params, env, arm_identity)
        folders.append(get_or_build(work / "arms", content_key(arm_identity), make))
        remove(work / "checkpoints" / arm.name)

    names = [arm.name for arm in settings.arms]
    store_spent(work, {name: load_spent(folder) for name, folder in zip(names, folders, strict=True)})
    with output(layout, STAGE) as out:
        for folder in folders:
            out.known += put_files(folder, out.folder, leave=(SECONDS,))
        write_json(out.folder / "arms.json", [arm.model_dump() for arm in settings.arms])
    models = {name: read_json(layout.artifact(STAGE) / name / "model.json") for name in names}
    write_metrics(layout, STAGE, {**rows.figures(), "captions": len(examples.captions), "arms": models})


def _examples(layout: Layout, settings: TrainClip, image_size: int, rows: Rows) -> Examples:
    audited_shards = list(kept_shards(layout, "train", CAPTION_TEXTS))
    picture_size = settings.augmentation.picture_size or image_size
    if not image_size <= picture_size <= MAX_SHRINK * image_size:
        raise ConfigurationError(
            f"train_clip.augmentation.picture_size is {picture_size} and the vision tower takes {image_size} "
            f"pixels; expected null, or {image_size} to {MAX_SHRINK * image_size}: fix params"
        )
    work = layout.work(STAGE)
    code = code_of(work, STAGE, "pixels")
    pixels = decoded(layout.artifact("download"), work, audited_shards, picture_size, decode_image, code)
    return Examples(pixels, audited_shards, settings.caption_mix, rows, image_size)


def _validations(layout: Layout, params: Params, image_size: int) -> dict[str, Validation]:
    """Return the validation for each kind of text; none where params ask for no measurement."""
    settings = params.train_clip
    tasks, work = settings.validation.retrieval, layout.work(STAGE)
    if not tasks:
        return {}
    held_out = read_held_out(layout, "validation", work, image_size, Rows(), with_labels=False)
    captions = [task_captions(held_out, task, "train_clip.validation.retrieval") for task in tasks]
    columns = {task.column for task in tasks}
    validations = {}
    for name in sorted({arm.text for arm in settings.arms}):
        vectors = None
        if name != OWN:
            vectors = HeldOutVectors(
                layout, name, params.embed_captions, columns, work, "validation", with_prompts=False
            )
        validations[name] = Validation(held_out, captions, vectors, settings)
    return validations


def _train(
    settings: ArmSettings,
    text: CachedTexts | PlainTexts,
    examples: Examples,
    guide: FalseNegativeFilter | None,
    validation: Validation | None,
    params: Params,
    env: Environment,
    identity: dict[str, Any],
    folder: Path,
) -> None:
    layout = Layout(env.work_store)
    torch.manual_seed(params.seed)  # draws the new projection and the adapter
    try:
        arm = build_arm(layout.artifact("base_models") / "clip", settings, params.train_clip, text)
    except ValueError as error:
        raise ConfigurationError(f"arm {settings.name}: {error}") from None
    arm.to(env.device)
    flops = flops_of_step(arm, settings, examples, text, params.train_clip, params.seed)
    history, spent = train_arm(
        arm,
        settings,
        examples,
        text,
        guide,
        validation,
        params.train_clip,
        params.seed,
        layout.work(STAGE),
        identity,
    )
    arm.to("cpu").save(folder / settings.name)
    training = {
        "steps": settings.steps,
        "images_seen": settings.steps * min(params.train_clip.batch_size, len(examples)),
        "flops": settings.steps * flops,
        "final_loss": history[-1]["loss"] if history else None,
        **_saved_recalls(history, params.train_clip.validation),
    }
    about = about_arm(arm, settings, params.train_clip.precision)
    write_json(folder / settings.name / "model.json", {**about, **training})
    write_bytes(folder / "history" / f"{settings.name}.csv", history_csv(history, ["step", "loss"]))
    keep_spent(folder, spent)


def _saved_recalls(history: list[dict[str, float]], settings: ValidationSettings) -> dict[str, Any]:
    """Return the validation recall of the saved weights, and the step at which it was measured."""
    points = [point for point in history if MEAN in point]
    if not points:
        return {}
    saved_point = max(points, key=lambda point: point[MEAN]) if settings.keep == "best" else points[-1]
    figures = {
        name: round(value, DIGITS) for name, value in saved_point.items() if name not in ("step", "loss")
    }
    recalls = {"recall_at": settings.recall_at, **figures}
    return {"kept_step": int(saved_point["step"]) + 1, "validation": recalls}
