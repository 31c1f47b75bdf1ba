"""Check that the models, buckets, endpoints and libraries that params name exist."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from components.cli.problems import Problem
from components.errors import ConfigurationError
from components.running.model_weights import check_bucket_files, check_folder_files
from components.settings.base_models import BucketModel, FolderModel
from components.settings.embed_captions import EndpointEncoder, SentenceTransformersModel
from components.settings.environment import Environment
from components.settings.params import Params
from components.settings.recaption import EndpointCaptioner, ModelCaptioner, VllmCaptioner
from components.sources.input_paths import Location, models_of
from components.sources.source_requirements import is_far
from components.storage.buckets.bucket import open_bucket


def absent_buckets(params: Params) -> Iterator[Problem]:
    """Yield sources whose bucket does not exist."""
    for index, source in enumerate(params.download.sources):
        if is_far(source) and source.location.startswith("s3://"):
            try:
                open_bucket(source.location)
            except ConfigurationError as error:
                yield Problem(("download", "sources", index, "path"), str(error))


def absent_models(params: Params, inputs: Path) -> Iterator[Problem]:
    """Yield incomplete models in buckets and in folders that exist."""
    for location, model in models_of(params.base_models).items():
        role = str(location[1])
        try:
            if isinstance(model, FolderModel) and (inputs / model.path).exists():
                check_folder_files(inputs / model.path, str(inputs / model.path), role)
            elif isinstance(model, BucketModel):
                check_bucket_files(open_bucket(model.uri), role)
        except ConfigurationError as error:
            yield Problem(location, str(error))


def absent_programs(params: Params, env: Environment) -> Iterator[Problem]:
    """Yield captioners and encoders whose endpoint has no address or whose library is not installed."""
    for index, captioner in enumerate(params.recaption.captioners):
        location: Location = ("recaption", "captioners", index)
        if isinstance(captioner, ModelCaptioner) and params.base_models.captioner is None:
            yield Problem(
                location,
                f"{captioner.name} is of kind model, and base_models.captioner is null; expected one: set "
                "it, or take a captioner of another kind",
            )
        if isinstance(captioner, EndpointCaptioner) and not env.caption_endpoint:
            yield _missing_address(location, captioner.name, "LLM2CLIP_CAPTION_ENDPOINT")
        if isinstance(captioner, VllmCaptioner) and find_spec("vllm") is None:
            yield Problem(
                location,
                f"{captioner.name} is of kind vllm, and vLLM is not installed; expected it: "
                "`pip install -e .[vllm]` in an environment of its own on a GPU machine",
            )
    for index, encoder in enumerate(params.embed_captions.others):
        location = ("embed_captions", "others", index)
        if isinstance(encoder, EndpointEncoder) and not env.embedding_endpoint:
            yield _missing_address(location, encoder.name, "LLM2CLIP_EMBEDDING_ENDPOINT")
        if isinstance(encoder, SentenceTransformersModel) and find_spec("sentence_transformers") is None:
            yield Problem(
                location,
                f"{encoder.name} needs sentence-transformers, which is not installed; expected it: "
                "`pip install -e .[sentence-transformers]`",
            )


def _missing_address(location: Location, name: str, variable: str) -> Problem:
    return Problem(
        location,
        f"{name} needs an endpoint, and {variable} is not set; expected its base URL, such as https://host/v1",
    )
