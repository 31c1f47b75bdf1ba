"""Copy models from the Hugging Face hub, a folder or a bucket: safetensors and tokenizers only, never code.

Only safetensors, JSON and tokenizer files are copied: those at the top of a folder, and those in the folders
that the `modules.json` of a sentence encoder names. Pickle files are never copied.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from components.base_models.from_bucket import bring
from components.base_models.hub import check_hashes, names_on_hub, snapshot
from components.base_models.model_builder import ModelBuilder
from components.base_models.model_files import MODULES, model_files, modules_in
from components.errors import ConfigurationError
from components.running.model_weights import WEIGHTS, check_model_files, weights_in
from components.settings.base_models import BucketModel, Fetched, FolderModel, HubModel
from components.storage.atomic import sha256_of, write_json
from components.storage.computed import FETCHED

UNUSED = ("pooler.", "decoder.")  # weights that a sentence encoder does not use


def fetch(
    section: Fetched,
    name: str,
    check: Callable[[Path], None],
    builder: ModelBuilder,
    *,
    with_modules: bool = False,
) -> Path:
    """Copy a model, or reuse a cached copy; return its folder with `about.json`.

    Args:
        section: Source of the model, from params.
        name: Path in the artifact: llm, clip, vision_language/<name>, text_encoders/<name>.
        check: Loads and checks the copy; raises ValueError if the model is of another kind.
        builder: Gives the input folder and the cache.
        with_modules: The model has sentence-transformers layout: copy the folders of its modules too.

    Raises:
        ConfigurationError: the model is missing, has no safetensors, or is not of the expected kind or hash.
        DataError: the hub's cache is damaged.
        InfrastructureError: the hub or the bucket is temporarily unavailable.
    """
    location, role = _location(section), name.partition("/")[0]
    if isinstance(section, BucketModel):
        identity: dict[str, Any] = {"fetched": section.model_dump()}

        def fill(folder: Path) -> None:
            bring(section, builder.work, folder, role, with_modules=with_modules)
            _remove_duplicate_weights(folder, model_files(folder, location, role, with_modules=with_modules))
    else:
        source = _source(section, builder, role, with_modules=with_modules)
        paths = model_files(source, location, role, with_modules=with_modules)
        digests = {path: sha256_of(path) for path in paths}
        if isinstance(section, HubModel):
            check_hashes(digests)
        files = {path.relative_to(source).as_posix(): digest for path, digest in digests.items()}
        identity = {"fetched": section.model_dump(), "files": files}

        def fill(folder: Path) -> None:
            for file in files:
                (folder / file).parent.mkdir(exist_ok=True)
                shutil.copyfile(source / file, folder / file)

    def make(folder: Path) -> None:
        fill(folder)
        try:
            check(folder)
            parameters = sum(weights_in(part) for part in [folder, *sorted(folder.glob("*/"))])
        except (ValueError, OSError, SafetensorError) as error:
            problem = str(error).splitlines()[0]
            raise ConfigurationError(
                f"base_models.{name}: {location} cannot be used ({problem}); expected another model"
            ) from None
        about: dict[str, Any] = {**section.model_dump(), "trained": True, "parameters": parameters}
        write_json(folder / "about.json", {**about, "steps": None, "final_loss": None, "held_out": None})

    return builder.get_or_build(name, {**identity, "format_version": FETCHED["model"]}, make)


def _remove_duplicate_weights(folder: Path, model_paths: list[Path]) -> None:
    """Remove files that hold the same weights again."""
    for path in set(folder.rglob(f"*{WEIGHTS}")) - set(model_paths):
        path.unlink()


def check_llm(folder: Path) -> None:
    """Check that the model is a decoder with all its weights, without reading them; see `check_decoder`.

    Raises:
        ValueError: it is no decoder, or a weight is missing.
    """
    from components.ml.text.decoder import check_decoder

    check_decoder(folder)


def check_clip(folder: Path) -> None:
    """Check that a CLIP, SigLIP or EVA-CLIP and its tokenizer load and agree, or that a vision tower loads.

    An EVA02 checkpoint in the layout of EVA-CLIP or timm is converted to Hugging Face layout first.

    Raises:
        ValueError: the model does not load, or model and tokenizer do not agree.
    """
    from components.ml.vision.clip import has_text_tower, load_base, load_clip_tokenizer, text_embeddings
    from components.ml.vision.eva02_convert import convert_folder

    convert_folder(folder)
    model = load_base(folder)
    if has_text_tower(folder):
        text_embeddings(model, load_clip_tokenizer(folder), ["a caption", "another, longer caption"])


def check_vision_language(folder: Path) -> None:
    """Check that transformers itself knows the kind of config, tokenizer and image processor.

    Raises:
        ValueError: it does not.
    """
    from components.ml.captioning.vlm import load_processor

    load_processor(folder)


def check_text_encoder(folder: Path) -> None:
    """Check that config, tokenizer and all modules of a sentence encoder are present and of a known kind.

    Raises:
        ConfigurationError: `modules.json` names an unknown module.
        ValueError: a module is incomplete.
    """
    from transformers import AutoTokenizer

    from components.ml.text.decoder import absent_weights

    AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if absent := [name for name in absent_weights(folder) if not name.startswith(UNUSED)]:
        raise ValueError(f"{len(absent)} weights are missing or of another shape, {absent[0]} among them")
    for module in modules_in((folder / MODULES).read_bytes(), folder.name):
        required_files = {"Pooling": ["config.json"], "Dense": ["config.json", f"model{WEIGHTS}"]}
        for file in required_files.get(module.type, []):
            if not (folder / module.folder / file).is_file():
                raise ValueError(f"its {module.type} has no {module.folder}/{file}")


def _location(section: Fetched) -> str:
    if isinstance(section, HubModel):
        return f"{section.id} at {section.revision}"
    return section.path if isinstance(section, FolderModel) else section.uri


def _source(section: HubModel | FolderModel, builder: ModelBuilder, role: str, *, with_modules: bool) -> Path:
    if isinstance(section, FolderModel):
        return builder.inputs / section.path
    folder = snapshot(section, with_modules=with_modules)
    if not any(folder.glob(f"*{WEIGHTS}")):  # other files in the repository tell what the model has instead
        names = {path.name for path in folder.glob("*")} | {*names_on_hub(section)}
        check_model_files(_location(section), names, lambda _: None, role)
    return folder
