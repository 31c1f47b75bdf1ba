"""Fetch or train the models that later stages start from: LLM, CLIP, captioners and text encoders.

Reads:
    inputs/<download.inputs>/: texts for vocabularies, and models of kind `folder`, if params name them.
    The Hugging Face hub, its cache or a bucket, if params name a model there.

Writes:
    artifacts/base_models/llm/: an LLM and its tokenizer, Hugging Face layout.
    artifacts/base_models/clip/: a CLIP, SigLIP or EVA-CLIP and its tokenizer, or a vision tower alone, in
        Hugging Face layout (with the model types of `ml.vision.conv_stem` and `ml.vision.eva02`).
    artifacts/base_models/captioner/: the captioner of `ml.captioning.small`, unless params set it to null.
    artifacts/base_models/vision_language/<name>/: other captioners, Hugging Face layout.
    artifacts/base_models/text_encoders/<name>/: other sentence encoders, sentence-transformers layout.
    artifacts/base_models/about.json: source, size and scores of each model.
    metrics/base_models.json
"""

from __future__ import annotations

from pathlib import Path

from components.base_models.model_builder import ModelBuilder
from components.running.output import output, write_metrics
from components.running.rows import Rows
from components.settings.base_models import MadeClip, MadeLlm
from components.settings.environment import Environment
from components.settings.params import Params
from components.sources.input_paths import check_seen_by_dvc, paths_of_base_models
from components.storage.atomic import read_json, write_json
from components.storage.layout import Layout
from components.storage.result_cache import put_files


def run(params: Params, env: Environment) -> None:
    """Run the stage."""
    layout = Layout(env.work_store)
    builder = ModelBuilder(
        work=layout.work("base_models"),
        inputs=layout.inputs(params.download.inputs),
        seed=params.seed,
        device=env.device,
        checkpoint_steps=params.base_models.checkpoint_steps,
        rows=Rows(),
    )
    check_seen_by_dvc(builder.inputs, paths_of_base_models(params.base_models))
    folders = {"llm": _llm(params, builder), "clip": _clip(params, builder)}
    if params.base_models.captioner:
        from components.base_models.captioner import make_captioner

        folders["captioner"] = make_captioner(params.base_models.captioner, builder)
    folders |= _vision_language(params, builder) | _text_encoders(params, builder)
    if builder.rows.rows_in:
        share = params.download.max_reject_share
        builder.rows.check(share, "download", params, layout, stage="base_models")
    about = {name: read_json(folder / "about.json") for name, folder in folders.items()}
    with output(layout, "base_models") as out:
        for name, folder in folders.items():
            out.known += put_files(folder, out.folder, name)
        write_json(out.folder / "about.json", about)
    write_metrics(layout, "base_models", {**builder.rows.figures(), "models": about})


def _llm(params: Params, builder: ModelBuilder) -> Path:
    section = params.base_models.llm
    if isinstance(section, MadeLlm):
        from components.base_models.llm import make_llm

        return make_llm(section, builder)
    from components.base_models.fetched import check_llm, fetch

    return fetch(section, "llm", check_llm, builder)


def _clip(params: Params, builder: ModelBuilder) -> Path:
    section = params.base_models.clip
    if isinstance(section, MadeClip):
        from components.base_models.clip import make_clip

        return make_clip(section, builder)
    from components.base_models.fetched import check_clip, fetch

    return fetch(section, "clip", check_clip, builder)


def _vision_language(params: Params, builder: ModelBuilder) -> dict[str, Path]:
    if not params.base_models.vision_language:
        return {}
    from components.base_models.fetched import check_vision_language, fetch

    sources = {f"vision_language/{model.name}": model.source for model in params.base_models.vision_language}
    return {name: fetch(source, name, check_vision_language, builder) for name, source in sources.items()}


def _text_encoders(params: Params, builder: ModelBuilder) -> dict[str, Path]:
    if not params.base_models.text_encoders:
        return {}
    from components.base_models.fetched import check_text_encoder, fetch

    sources = {f"text_encoders/{model.name}": model.source for model in params.base_models.text_encoders}
    return {
        name: fetch(source, name, check_text_encoder, builder, with_modules=True)
        for name, source in sources.items()
    }
