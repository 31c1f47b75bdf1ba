"""Models that others made, from the hub or a folder: weights and words only, never code.

Only safetensors, JSON and tokenizer files at the top of the folder are taken; no pickle is even copied.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from components.base_models.workshop import Workshop
from components.faults import ConfigurationFault, InfrastructureFault
from components.running.model_weights import weights_in
from components.settings.base_models import FolderModel, HubModel
from components.storage.atomic import sha256_of, write_json

WEIGHTS = ".safetensors"
WORDS = (
    "*.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")
CONFIGS = ("config.json", "open_clip_config.json")
SERVER_ERROR = 500


def fetch(
    section: HubModel | FolderModel, name: str, check: Callable[[Path], None], workshop: Workshop
) -> Path:
    """Return the folder of a copy of a model, with its `about.json`.

    Args:
        section: Where it is.
        name: Its place below the artifact: llm, clip, vision_language/<name>.
        check: Loads what can be checked of the copy; raises ValueError where it is of another kind.
        workshop: Where it is kept.

    Raises:
        ConfigurationFault: it is missing, or holds no safetensors, or is of another kind.
        InfrastructureFault: the hub answers, but not now.
    """
    if isinstance(section, HubModel):
        source, place = _snapshot(section), f"{section.id} at {section.revision}"
    else:
        source, place = workshop.inputs / section.path, section.path
    files = _files(source, place)
    hashes = {path.name: sha256_of(path) for path in files}
    identity = {"fetched": section.model_dump(), "files": hashes}

    def make(folder: Path) -> None:
        for path in files:
            shutil.copyfile(path, folder / path.name)
        try:
            check(folder)
            parameters = weights_in(folder)
        except (ValueError, OSError, SafetensorError) as error:
            found = str(error).splitlines()[0]
            raise ConfigurationFault(
                f"base_models.{name}: {place} cannot be used ({found}); expected another model"
            ) from None
        about: dict[str, Any] = {**section.model_dump(), "trained": True, "parameters": parameters}
        write_json(folder / "about.json", {**about, "steps": None, "final_loss": None, "held_out": None})

    return workshop.piece(name, identity, make)


def check_llm(folder: Path) -> None:
    """Check that config and tokenizer are of a kind that transformers knows by itself.

    Raises:
        ValueError: they are not.
    """
    from transformers import AutoConfig, AutoTokenizer

    for kind in (AutoConfig, AutoTokenizer):
        kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def check_clip(folder: Path) -> None:
    """Check that a CLIP, SigLIP or EVA-CLIP and its tokenizer load and agree, or that a vision tower loads.

    A copy of an EVA02 checkpoint in the layout of EVA-CLIP or timm is brought into Hugging Face layout first.

    Raises:
        ValueError: they do not.
    """
    from components.ml.clip import has_text_tower, load_base, load_clip_tokenizer, text_embeddings
    from components.ml.eva02_checkpoints import convert_folder

    convert_folder(folder)
    model = load_base(folder)
    if has_text_tower(folder):
        text_embeddings(model, load_clip_tokenizer(folder), ["a caption", "another, longer caption"])


def check_vision_language(folder: Path) -> None:
    """Check that config, tokenizer and image processor are of a kind that transformers knows by itself.

    Raises:
        ValueError: they are not.
    """
    from components.ml.vision_language import load_processor

    load_processor(folder)


def _snapshot(section: HubModel) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        return Path(
            snapshot_download(
                section.id, revision=section.revision, allow_patterns=[f"*{WEIGHTS}", *WORDS], max_workers=4
            )
        )
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise ConfigurationFault(
            f"{section.id} at {section.revision} is not in the hub's cache and the hub cannot be reached; "
            "expected either: run once with network and without HF_HUB_OFFLINE, or take kind: folder"
        ) from None
    except HFValidationError as error:
        raise ConfigurationFault(
            f"{str(error).splitlines()[0]}; expected an id of the hub, owner/name"
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else SERVER_ERROR
        found = f"the hub answers {status} for {section.id} at {section.revision}"
        if status >= SERVER_ERROR:
            raise InfrastructureFault(f"{found}; try again later") from None
        raise ConfigurationFault(
            f"{found}; expected a model and revision that exist and that HF_TOKEN may read"
        ) from None


def _files(source: Path, place: str) -> list[Path]:
    if not source.is_dir():
        raise ConfigurationFault(f"model folder {source} not found; expected one in Hugging Face layout")
    files = [path for path in sorted(source.iterdir()) if path.is_file()]
    taken = [path for path in files if path.suffix == WEIGHTS or any(path.match(word) for word in WORDS)]
    weights = {path.name for path in taken if path.suffix == WEIGHTS}
    if not weights:
        pickles = [path.name for path in files if path.suffix in PICKLES]
        found = f"only {pickles[0]}, which may run code when read," if pickles else "no weights"
        raise ConfigurationFault(
            f"{place} holds {found} and no safetensors; expected *.safetensors: convert it, or take another "
            "revision"
        )
    if not any((source / name).is_file() for name in CONFIGS):
        raise ConfigurationFault(
            f"{place} has no config.json; expected a model in Hugging Face layout, or an EVA02 checkpoint "
            "with the config of EVA-CLIP, open_clip or timm"
        )
    listed = _listed(source / "model.safetensors.index.json")
    if missing := sorted(listed - weights):
        raise ConfigurationFault(
            f"{place} lacks {missing[0]}, which its index lists ({len(missing)} of {len(listed)} missing); "
            "expected all: download it again"
        )
    return taken


def _listed(index: Path) -> set[str]:
    """Return the files of weights that an index lists; none where there is no index."""
    if not index.is_file():
        return set()
    try:
        return set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigurationFault(
            f"{index} is damaged; expected JSON with a weight_map: download it again"
        ) from None
