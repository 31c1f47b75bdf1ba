"""Select the files of a model folder to copy: safetensors, configs and tokenizers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from components.errors import ConfigurationError
from components.running.model_weights import INDEX, WEIGHTS, WHOLE, check_folder_files, listed_weights

OPEN_CLIP = f"open_clip_model{WEIGHTS}"  # a whole CLIP; WHOLE beside it, from timm, repeats its vision tower
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
    """One module of a model in sentence-transformers layout."""

    type: str  # class name
    folder: str  # "" for the top folder


def is_taken(name: str) -> bool:
    """Say whether to copy a file, by the last part of its name."""
    path = PurePosixPath(name)
    return path.suffix == WEIGHTS or any(path.match(word) for word in WORDS)


def modules_in(text: bytes | None, location: str) -> list[Module]:
    """Return the modules that a `modules.json` lists.

    Args:
        text: Content of the file; None if there is none.
        location: Location of the model, for messages.

    Raises:
        ConfigurationError: the file is missing or damaged, or names a class outside sentence-transformers.
    """
    expected = "expected a model in sentence-transformers layout"
    if text is None:
        raise ConfigurationError(f"{location} has no {MODULES}; {expected}")
    try:
        entries = [(str(entry["type"]), str(entry["path"])) for entry in json.loads(text)]
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(f"{location}: {MODULES} is damaged; {expected}; fetch it again") from None
    for kind, folder in entries:
        if not (MODULE.fullmatch(kind) and MODULE_FOLDER.fullmatch(folder)):
            raise ConfigurationError(
                f"{location}: {MODULES} names {kind[:80]} in {folder[:80]!r}; expected Transformer, Pooling, "
                "Normalize or Dense of sentence_transformers, each at the top or one folder below"
            )
    modules = [Module(kind.rpartition(".")[2], folder) for kind, folder in entries]
    if [module.folder for module in modules if module.type == "Transformer"] != [""]:
        raise ConfigurationError(f"{location}: {MODULES} names no Transformer at the top; {expected}")
    return modules


def model_files(source: Path, location: str, role: str, *, with_modules: bool) -> list[Path]:
    """Return the files of a model folder to copy, and check that none is missing.

    Args:
        source: Folder of the model.
        location: Name of the model in messages.
        role: See `check_model_files`.
        with_modules: The model has sentence-transformers layout: include the folders of its modules.

    Raises:
        ConfigurationError: the folder is missing, or not a complete model; see `check_model_files`.
    """
    if not source.is_dir():
        raise ConfigurationError(f"model folder {source} not found; expected one in Hugging Face layout")
    check_folder_files(source, location, role)
    paths = sorted(path for path in source.iterdir() if path.is_file() and is_taken(path.name))
    weights = {path.name for path in paths if path.suffix == WEIGHTS}
    index = source / INDEX
    listed = listed_weights(location, index.read_bytes() if index.is_file() else None)
    if weights_used := _weights_used(source, weights, listed):
        paths = [path for path in paths if path.suffix != WEIGHTS or path.name in weights_used]
    return [*paths, *_files_of_modules(source, location)] if with_modules else paths


def _weights_used(source: Path, weights: set[str], listed: set[str]) -> set[str]:
    """Return the weight files that a loader reads, if others repeat the same weights; empty: all of them.

    transformers reads one file or the files in the index, but not `consolidated.safetensors`. open_clip reads
    its own file, but not timm's.
    """
    try:
        tree = json.loads((source / "config.json").read_text("utf-8"))
    except (OSError, ValueError):  # the loader reports what is wrong
        tree = None
    if isinstance(tree, dict) and "model_type" in tree:
        return {WHOLE} if WHOLE in weights else listed
    return weights & {OPEN_CLIP}


def _files_of_modules(source: Path, location: str) -> list[Path]:
    path = source / MODULES
    paths: list[Path] = []
    for module in modules_in(path.read_bytes() if path.is_file() else None, location):
        folder = source / module.folder
        if not module.folder or not folder.is_dir():  # Normalize may have no folder
            continue
        paths += sorted(file for file in folder.iterdir() if file.is_file() and is_taken(file.name))
    return paths
