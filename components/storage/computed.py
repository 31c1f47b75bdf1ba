"""Results that are computed here, with the modules that make each; and those that were fetched.

What is computed here is computed by the code that is here: the key of such a result holds `code_of` it, and
changed code computes it again. What was fetched from outside is never fetched again because of code: the keys
of such results hold a version of `FETCHED`, raised by hand where what is kept cannot be used any more.
"""

from __future__ import annotations

from pathlib import Path

from components.errors import ConfigurationError
from components.storage.atomic import read_json, write_json
from components.storage.code import code_hash

MAKERS: dict[str, dict[str, tuple[str, ...]]] = {  # by stage and result
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
FETCHED = {  # versions, raised by hand: a raised one fetches everything of its kind again
    "shard": 4,  # pictures of urls, and shards of others
    "model": 1,  # of the hub, a folder or a bucket
    "draft": 3,  # captions that an endpoint wrote
    "embedding": 3,  # vectors that an endpoint gave
}
FILE = "code.json"  # in a stage's folder of the work store


def code_of(work: Path, stage: str, result: str) -> str:
    """Return the hash of the code that computes a result, or of that which counts as the same (`accept`).

    Args:
        work: The stage's folder in the work store.
        stage: Of `MAKERS`.
        result: Of that stage.
    """
    code = code_hash(MAKERS[stage][result])
    return str(_read(work).get("accepted", {}).get(code, code))


def remember_code(work: Path, stage: str) -> None:
    """Write down what code a stage has run with to its end."""
    if makers := MAKERS.get(stage):
        made_by = {result: code_of(work, stage, result) for result in makers}
        write_json(work / FILE, {**_read(work), "made_by": made_by})


def accept(work: Path, stage: str) -> list[str]:
    """Let results of the code that a stage last ran with stand for those of the code that is here.

    Args:
        work: The stage's folder in the work store.
        stage: Its name.

    Returns:
        The results whose code has changed.

    Raises:
        ConfigurationError: the stage computes nothing that is kept, or has not run to its end here.
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
