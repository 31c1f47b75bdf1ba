"""Cache keys of results: the code hash of computed results, the format version of fetched ones.

The key of a computed result holds the hash of its code (`code_of`), so changed code computes it again.
Changed code never fetches external data again: the key of a fetched result holds a version from `FETCHED`,
which is raised by hand when the stored form cannot be used any more.
"""

from __future__ import annotations

from pathlib import Path

from components.errors import ConfigurationError
from components.storage.atomic import read_json, write_json
from components.storage.code import code_hash

MAKERS: dict[str, dict[str, tuple[str, ...]]] = {  # modules by stage and result
    "download": {"scenes": ("components.sources.scenes.drawing", "components.ml.vision.pictures")},
    "base_models": {
        "llm": ("components.base_models.llm",),
        "clip": ("components.base_models.clip",),
        "captioner": ("components.base_models.captioner",),
    },
    "recaption": {
        "model": ("components.recaption.captioners.made",),
        "columns": ("components.recaption.captioners.columns",),
        "vision_language": ("components.recaption.captioners.vision_language",),
        "vllm": ("components.recaption.captioners.vllm",),
        "image_embeddings": ("components.recaption.scores.base_clip",),
        "similarities": ("components.recaption.scores.scoring",),
    },
    "audit": {
        "fingerprints": ("components.audit.near_duplicates.fingerprints",),
        "caption_figures": ("components.audit.caption_figures",),
        "similar_images": ("components.audit.near_duplicates.similar",),
        "near_images": ("components.audit.curation.near_images",),
    },
    "tune_llm": {"llm": ("components.tune_llm.phases",)},
    "embed_captions": {
        "llm": ("components.embed_captions.llms", "components.embed_captions.embedding"),
        "sentence_encoder": (
            "components.embed_captions.sentence_encoders",
            "components.embed_captions.embedding",
        ),
    },
    "train_clip": {
        "arms": ("components.train_clip.training",),
        "pixels": ("components.ml.vision.pixels", "components.storage.pixels"),
    },
    "evaluate": {"pixels": ("components.ml.vision.pixels", "components.storage.pixels")},
}
FETCHED = {  # versions; raising one by hand fetches everything of its kind again
    "shard": 4,  # images of urls, and shards from elsewhere
    "model": 1,  # from the hub, a folder or a bucket
    "draft": 3,  # captions that an endpoint wrote
    "embedding": 3,  # vectors that an endpoint gave
}
FILE = "code.json"  # in a stage's folder in the work store


def code_of(work: Path, stage: str, result: str) -> str:
    """Return the hash of the code that computes a result, or the older hash that `accept` stored for it.

    Args:
        work: The stage's folder in the work store.
        stage: A stage of `MAKERS`.
        result: A result of that stage.
    """
    code = code_hash(MAKERS[stage][result])
    return str(_read(work).get("accepted", {}).get(code, code))


def remember_code(work: Path, stage: str) -> None:
    """Record the code hashes that a finished run of a stage used."""
    if makers := MAKERS.get(stage):
        made_by = {result: code_of(work, stage, result) for result in makers}
        write_json(work / FILE, {**_read(work), "made_by": made_by})


def accept(work: Path, stage: str) -> list[str]:
    """Accept the results of the code that a stage last ran with as results of the current code.

    Args:
        work: The stage's folder in the work store.
        stage: The stage's name.

    Returns:
        The results whose code has changed.

    Raises:
        ConfigurationError: the stage keeps no computed result, or has no finished run in this work store.
    """
    makers = MAKERS.get(stage)
    if makers is None:
        raise ConfigurationError(f"{stage} keeps no computed result; expected one of {', '.join(MAKERS)}")
    tree = _read(work)
    made_by = tree.get("made_by")
    if not made_by:
        raise ConfigurationError(
            f"{work / FILE} not found: {stage} has not run to its end in this work store; "
            "expected a finished run, whose results could be accepted"
        )
    changed = [result for result in makers if made_by.get(result) not in {None, code_of(work, stage, result)}]
    accepted = {code_hash(makers[result]): made_by[result] for result in changed}
    write_json(work / FILE, {**tree, "accepted": {**tree.get("accepted", {}), **accepted}})
    return changed


def _read(work: Path) -> dict[str, dict[str, str]]:
    path = work / FILE
    return read_json(path) if path.is_file() else {}
