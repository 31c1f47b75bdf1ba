"""Header of cached embeddings: everything that decides their values. Used by the writer and all readers."""

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
CODE = "code"  # of a header: hash of the code that embedded; DVC sees to it that it is the current one


def llm_folder(layout: Layout, name: str) -> Path:
    """Return the folder of the base or the tuned LLM."""
    return layout.artifact(ARTIFACTS[name]) / "llm"


def llm_header(layout: Layout, name: str, params: EmbedCaptions, *, verify: bool) -> dict[str, Any]:
    """Return the header of the embeddings of an LLM.

    Args:
        layout: Layout of the project.
        name: `base` or `tuned`.
        params: Section embed_captions.
        verify: Read the files of the LLM first and compare them with their manifest.
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
    """Return the header of the embeddings of another encoder; see `llm_header`.

    A server is identified by its params, not by its address.
    """
    if isinstance(section, EndpointEncoder):
        header = section.model_dump(exclude={"name", "batch_size", "requests"})
    else:
        header = section.model_dump(include={"kind", "model", "precision"})
        header["model_key"] = _key(
            layout.artifact("base_models"), f"text_encoders/{section.model}/", verify=verify
        )
    return {**header, "encoder": section.name, **DTYPE}


def check_header(layout: Layout, name: str, params: EmbedCaptions, found: Embeddings) -> None:
    """Refuse embeddings that the current params and models would not have made.

    DVC notices a folder that was copied here by hand only when it is asked for the stage that makes it.

    Raises:
        DataError: the header differs; names every differing key.
    """
    if name in LLMS:
        expected = llm_header(layout, name, params, verify=False)
    else:
        section = next(other for other in params.others if other.name == name)
        expected = other_header(layout, section, verify=False)
    keys = sorted(
        key
        for key in (expected.keys() | found.about.keys()) - {CODE}
        if expected.get(key) != found.about.get(key)
    )
    if keys:
        differences = "; ".join(
            f"{key} {found.about.get(key)!r}, expected {expected.get(key)!r}" for key in keys
        )
        raise DataError(
            f"{layout.artifact('embed_captions') / name} was not made by the current params and models: "
            f"{differences}: run `dvc repro --force embed_captions`"
        )


def _key(artifact: Path, below: str, *, verify: bool) -> str:
    if verify:
        return folder_key(artifact, below)
    entries = [entry for entry in listed(artifact) if entry.path.startswith(below)]
    return content_key([[entry.path, entry.sha256] for entry in entries])
