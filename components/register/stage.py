"""Make a release of one trained arm if it passes its gates, and publish it.

Reads
    artifacts/train_clip/<arm>/                          the arm
    artifacts/tune_llm/, artifacts/base_models/llm/      the LLM it was trained with, and its encoding
    metrics/evaluate.json                                the figures that the gates check
    artifacts/{download,recaption}/manifest.json, artifacts/audit/kept/   the data it was trained on
Writes
    artifacts/register/    vision_encoder/, text_adapter/, llm/, encoding.json (or clip/), model.json,
                           README.md (the model card), release.json (version and lineage)
    metrics/register.json
    the registry, outside DVC (LLM2CLIP_REGISTRY)
"""

from __future__ import annotations

from pathlib import Path

from components.errors import ConfigurationError, PipelineError
from components.register.card import model_card
from components.register.gates import check_gates
from components.register.lineage import lineage_of, version_of
from components.register.publish import publish
from components.running.output import output, write_metrics
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import link_or_copy, read_json, remove, write_bytes, write_json
from components.storage.buckets.bucket import open_bucket
from components.storage.layout import Layout
from components.storage.manifest import read_manifest

STAGE = "register"


def run(params: Params, env: Environment) -> None:
    """Run the stage."""
    layout, settings = Layout(env.work_store), params.register
    open_bucket(env.registry)  # an unreachable registry is reported before any work
    trained = [arm.name for arm in params.train_clip.arms]
    if settings.arm not in trained:
        raise ConfigurationError(
            f"register.arm is {settings.arm}; expected an arm of train_clip: {', '.join(trained)}"
        )
    metrics = read_json(layout.metrics("evaluate"))
    gates = check_gates(settings.gates, metrics, layout.metrics("evaluate"))

    with output(layout, STAGE) as out:
        _copy(layout.artifact("train_clip"), f"{settings.arm}/", out.folder, keep_prefix=False)
        text = read_json(out.folder / "model.json")["text"]
        if text != "own":
            llm = layout.artifact({"tuned": "tune_llm", "base": "base_models"}[text])
            _copy(llm, "llm/", out.folder)
            _copy(layout.artifact("tune_llm"), "encoding.json", out.folder)
        lineage = lineage_of(params, layout, gates, metrics)
        write_bytes(
            out.folder / "README.md", model_card(out.folder, lineage, metrics, settings.licence).encode()
        )
        version = version_of(out.folder, lineage)
        write_json(out.folder / "release.json", {"version": version, **lineage})
    write_metrics(layout, STAGE, {"name": settings.name, "version": version, "gates": gates})
    try:
        publish(layout, env)
    except PipelineError:  # leftovers would block `dvc checkout`
        remove(layout.artifact(STAGE))
        remove(layout.metrics(STAGE))
        raise


def _copy(artifact: Path, below: str, target: Path, *, keep_prefix: bool = True) -> None:
    """Copy the verified files of an artifact below a path into the release."""
    entries = read_manifest(artifact, below)
    if not entries:
        raise ConfigurationError(f"{artifact / below} not found; run `dvc repro {artifact.name}` to make it")
    for entry in entries:
        name = entry.uri if keep_prefix else entry.uri.removeprefix(below)
        link_or_copy(artifact / entry.uri, target / name)
