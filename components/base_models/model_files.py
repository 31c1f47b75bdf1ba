"""Select the files of a model's folder: safetensors, configs and tokenizers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from components.errors import ConfigurationError
from components.running.model_weights import INDEX, WEIGHTS, WHOLE, check_folder_files, listed_weights

OPEN_CLIP = f"open_clip_model{WEIGHTS}"  # a whole CLIP; timm's WHOLE beside it is its vision tower once more
WORDS = (
    "*.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
)
MODULES = "modules.json"
MODULE = re.compile(r"sentence_transformers\.([A-Za-z0-9_]+\.)*(Transformer|Pooling|Normalize|Dense)")
MODULE_FOLDER = re.compile(r"[A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Module:
    """One part of a model in sentence-transformers layout."""

    type: str  # the name of its class
    folder: str  # "" is the top


def is_taken(name: str) -> bool:
    """Say whether a file is one to take, by the last part of its name."""
    path = PurePosixPath(name)
    return path.suffix == WEIGHTS or any(path.match(word) for word in WORDS)


def modules_in(text: bytes | None, place: str) -> list[Module]:
    """Return the parts that a `modules.json` names.

    Args:
        text: Of the file, None where there is none.
        place: Of the model, for messages.

    Raises:
        ConfigurationError: it is absent or damaged, or names a class that is not of sentence-transformers.
    """
    expected = "expected a model in sentence-transformers layout"
    if text is None:
        raise ConfigurationError(f"{place} has no {MODULES}; {expected}")
    try:
        named = [(str(one["type"]), str(one["path"])) for one in json.loads(text)]
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(f"{place}: {MODULES} is damaged; {expected}: fetch it again") from None
    for kind, folder in named:
        if not (MODULE.fullmatch(kind) and MODULE_FOLDER.fullmatch(folder)):
            raise ConfigurationError(
                f"{place}: {MODULES} names {kind[:80]} in {folder[:80]!r}; expected Transformer, Pooling, "
                "Normalize or Dense of sentence_transformers, each at the top or one folder below"
            )
    modules = [Module(kind.rpartition(".")[2], folder) for kind, folder in named]
    if [one.folder for one in modules if one.type == "Transformer"] != [""]:
        raise ConfigurationError(f"{place}: {MODULES} names no Transformer at the top; {expected}")
    return modules


def model_files(source: Path, place: str, role: str, *, with_modules: bool) -> list[Path]:
    """Return the files to take of a folder, and see that they are all there.

    Args:
        source: The folder.
        place: What it is called in messages.
        role: See `check_model_files`.
        with_modules: It is in sentence-transformers layout: the folders of its parts are looked into as well.

    Raises:
        ConfigurationError: it is missing, or not a whole model; see `check_model_files`.
    """
    if not source.is_dir():
        raise ConfigurationError(f"model folder {source} not found; expected one in Hugging Face layout")
    check_folder_files(source, place, role)
    taken = sorted(path for path in source.iterdir() if path.is_file() and is_taken(path.name))
    weights = {path.name for path in taken if path.suffix == WEIGHTS}
    index = source / INDEX
    listed = listed_weights(place, index.read_bytes() if index.is_file() else None)
    if wanted := _read(source, weights, listed):
        taken = [path for path in taken if path.suffix != WEIGHTS or path.name in wanted]
    return [*taken, *_files_of_modules(source, place)] if with_modules else taken


def _read(source: Path, weights: set[str], listed: set[str]) -> set[str]:
    """Return the files of weights that are read, where others hold the same weights once more; none: all.

    transformers reads one file or those that the index lists, and not `consolidated.safetensors`. open_clip
    reads its own, and not timm's.
    """
    try:
        tree = json.loads((source / "config.json").read_text("utf-8"))
    except (OSError, ValueError):  # who loads it says what is wrong
        tree = None
    if isinstance(tree, dict) and "model_type" in tree:
        return {WHOLE} if WHOLE in weights else listed
    return weights & {OPEN_CLIP}


def _files_of_modules(source: Path, place: str) -> list[Path]:
    path = source / MODULES
    found: list[Path] = []
    for module in modules_in(path.read_bytes() if path.is_file() else None, place):
        folder = source / module.folder
        if not module.folder or not folder.is_dir():  # Normalize may have nothing to say
            continue
        found += sorted(one for one in folder.iterdir() if one.is_file() and is_taken(one.name))
    return found
