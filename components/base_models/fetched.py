"""Copy models from the hub, a folder or a bucket: safetensors and tokenizers only, never code.

Only safetensors, JSON and tokenizer files are taken, at the top of a folder and where `modules.json` says
that parts of a sentence encoder lie; no pickle is even copied.
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

UNUSED = ("pooler.", "decoder.")  # weights of a model that its sentence encoder has no part in


def fetch(
    section: Fetched,
    name: str,
    check: Callable[[Path], None],
    builder: ModelBuilder,
    *,
    with_modules: bool = False,
) -> Path:
    """Return the folder of a copy of a model, with its `about.json`.

    Args:
        section: Where it is.
        name: Its place below the artifact: llm, clip, vision_language/<name>, text_encoders/<name>.
        check: Loads what can be checked of the copy; raises ValueError where it is of another kind.
        builder: Where it is kept.
        with_modules: It is in sentence-transformers layout: the folders of its parts are taken as well.

    Raises:
        ConfigurationError: it is missing, holds no safetensors, is of another kind or not the pinned one.
        DataError: the hub's cache is damaged.
        InfrastructureError: the hub or the bucket answers, but not now.
    """
    place, role = _place(section), name.partition("/")[0]
    if isinstance(section, BucketModel):
        identity: dict[str, Any] = {"fetched": section.model_dump()}

        def fill(folder: Path) -> None:
            bring(section, builder.work, folder, role, with_modules=with_modules)
            _keep(folder, model_files(folder, place, role, with_modules=with_modules))
    else:
        source = _source(section, builder, role, with_modules=with_modules)
        taken = model_files(source, place, role, with_modules=with_modules)
        digests = {path: sha256_of(path) for path in taken}
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
            found = str(error).splitlines()[0]
            raise ConfigurationError(
                f"base_models.{name}: {place} cannot be used ({found}); expected another model"
            ) from None
        about: dict[str, Any] = {**section.model_dump(), "trained": True, "parameters": parameters}
        write_json(folder / "about.json", {**about, "steps": None, "final_loss": None, "held_out": None})

    return builder.get_or_build(name, {**identity, "format_version": FETCHED["model"]}, make)


def _keep(folder: Path, taken: list[Path]) -> None:
    """Remove weights that are there a second time."""
    for path in set(folder.rglob(f"*{WEIGHTS}")) - set(taken):
        path.unlink()


def check_llm(folder: Path) -> None:
    """Check that it is a decoder of which all weights are there, without reading them; see `check_decoder`.

    Raises:
        ValueError: it is not.
    """
    from components.ml.text.decoder import check_decoder

    check_decoder(folder)


def check_clip(folder: Path) -> None:
    """Check that a CLIP, SigLIP or EVA-CLIP and its tokenizer load and agree, or that a vision tower loads.

    A copy of an EVA02 checkpoint in the layout of EVA-CLIP or timm is brought into Hugging Face layout first.

    Raises:
        ValueError: they do not.
    """
    from components.ml.vision.clip import has_text_tower, load_base, load_clip_tokenizer, text_embeddings
    from components.ml.vision.eva02_convert import convert_folder

    convert_folder(folder)
    model = load_base(folder)
    if has_text_tower(folder):
        text_embeddings(model, load_clip_tokenizer(folder), ["a caption", "another, longer caption"])


def check_vision_language(folder: Path) -> None:
    """Check that config, tokenizer and image processor are of a kind that transformers knows by itself.

    Raises:
        ValueError: they are not.
    """
    from components.ml.captioning.vlm import load_processor

    load_processor(folder)


def check_text_encoder(folder: Path) -> None:
    """Check that config, tokenizer and all parts of a sentence encoder are there and of a known kind.

    Raises:
        ConfigurationError: `modules.json` names no known parts.
        ValueError: a part is not whole.
    """
    from transformers import AutoTokenizer

    from components.ml.text.decoder import absent_weights

    AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if absent := [name for name in absent_weights(folder) if not name.startswith(UNUSED)]:
        raise ValueError(f"{len(absent)} weights are missing or of another shape, {absent[0]} among them")
    for module in modules_in((folder / MODULES).read_bytes(), folder.name):
        needed = {"Pooling": ["config.json"], "Dense": ["config.json", f"model{WEIGHTS}"]}
        for file in needed.get(module.type, []):
            if not (folder / module.folder / file).is_file():
                raise ValueError(f"its {module.type} has no {module.folder}/{file}")


def _place(section: Fetched) -> str:
    if isinstance(section, HubModel):
        return f"{section.id} at {section.revision}"
    return section.path if isinstance(section, FolderModel) else section.uri


def _source(section: HubModel | FolderModel, builder: ModelBuilder, role: str, *, with_modules: bool) -> Path:
    if isinstance(section, FolderModel):
        return builder.inputs / section.path
    folder = snapshot(section, with_modules=with_modules)
    if not any(folder.glob(f"*{WEIGHTS}")):  # what was not asked for says what the model has instead
        names = {path.name for path in folder.glob("*")} | {*names_on_hub(section)}
        check_model_files(_place(section), names, lambda _: None, role)
    return folder
