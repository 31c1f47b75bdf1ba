"""What stands in the header of cached embeddings: all that decides one. Writer and readers ask here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.errors import DataError
from components.settings.embed_captions import LLMS, EmbedCaptions, EndpointEncoder, SentenceTransformersModel
from components.storage.atomic import content_key, read_json
from components.storage.embeddings import Embeddings
from components.storage.layout import Layout
from components.storage.manifest import folder_key, listed, read_manifest

ARTIFACTS = {"base": "base_models", "tuned": "tune_llm"}
DTYPE = {"dtype": "float16"}


def llm_folder(layout: Layout, name: str) -> Path:
    """Return where the base or the tuned LLM is."""
    return layout.artifact(ARTIFACTS[name]) / "llm"


def llm_header(layout: Layout, name: str, params: EmbedCaptions, *, verify: bool) -> dict[str, Any]:
    """Return what the embeddings of an LLM are made by.

    Args:
        layout: Where it is.
        name: `base` or `tuned`.
        params: Of embed_captions.
        verify: Whether its files are read and compared with their manifest first.
    """
    tuned = layout.artifact("tune_llm")
    if verify:
        read_manifest(tuned, "encoding.json")
    key = _key(layout.artifact(ARTIFACTS[name]), "llm/", verify=verify)
    encoding = read_json(tuned / "encoding.json")
    return {**encoding, "llm": name, "llm_key": key, "precision": params.precision, **DTYPE}


def other_header(
    layout: Layout, section: SentenceTransformersModel | EndpointEncoder, *, verify: bool
) -> dict[str, Any]:
    """Return what the embeddings of another encoder are made by; see `llm_header`.

    A server is known by what params say of it, not by its address.
    """
    if isinstance(section, EndpointEncoder):
        about = section.model_dump(exclude={"name", "batch_size", "requests"})
    else:
        about = section.model_dump(include={"kind", "model", "precision"})
        about["model_key"] = _key(
            layout.artifact("base_models"), f"text_encoders/{section.model}/", verify=verify
        )
    return {**about, "encoder": section.name, **DTYPE}


def check_header(layout: Layout, name: str, params: EmbedCaptions, found: Embeddings) -> None:
    """Refuse embeddings that params and models of now would not have made.

    DVC sees a folder that somebody copied here only when the stage that makes it is asked for.

    Raises:
        DataError: the header differs; names every key that does.
    """
    if name in LLMS:
        expected = llm_header(layout, name, params, verify=False)
    else:
        section = next(one for one in params.others if one.name == name)
        expected = other_header(layout, section, verify=False)
    keys = sorted(
        key for key in expected.keys() | found.about.keys() if expected.get(key) != found.about.get(key)
    )
    if keys:
        differences = "; ".join(
            f"{key} {found.about.get(key)!r}, expected {expected.get(key)!r}" for key in keys
        )
        raise DataError(
            f"{layout.artifact('embed_captions') / name} was made otherwise than params and models of now "
            f"would: {differences}: `dvc repro --force embed_captions` makes it again"
        )


def _key(artifact: Path, below: str, *, verify: bool) -> str:
    if verify:
        return folder_key(artifact, below)
    entries = [entry for entry in listed(artifact) if entry.place.startswith(below)]
    return content_key([[entry.place, entry.sha256] for entry in entries])
