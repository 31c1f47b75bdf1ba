"""Create the captioner of each entry of `recaption.captioners`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from components.recaption.captioners.captioner import Captioner
from components.recaption.captioners.columns import FromColumns, FromSources
from components.recaption.captioners.prompted import FromPrompts, Writer
from components.settings.environment import Environment
from components.settings.params import Params
from components.settings.recaption import (
    ColumnsCaptioner,
    EndpointCaptioner,
    ModelCaptioner,
    VisionLanguageCaptioner,
    VllmCaptioner,
)


def captioners_of(params: Params, base_models: Path, env: Environment) -> Iterator[Captioner]:
    """Yield the captioners of params; import what a captioner needs only if it is named.

    Args:
        params: Params of the run.
        base_models: Folder of the artifact of base_models.
        env: Device, and address and key of the endpoint.

    Raises:
        ConfigurationError: something that a captioner needs is missing.
    """
    sources = FromSources(params.download.sources)
    for section in params.recaption.captioners:
        if isinstance(section, ColumnsCaptioner):
            yield FromColumns(section, sources)
        elif isinstance(section, ModelCaptioner):
            from components.recaption.captioners.made import FromPixels

            yield FromPixels(section, base_models, env.device)
        else:
            retry_rounds = section.requests.retry_rounds if isinstance(section, EndpointCaptioner) else 0
            yield FromPrompts(section, params.seed, _writer(section, base_models, env), retry_rounds)


def _writer(
    section: VisionLanguageCaptioner | VllmCaptioner | EndpointCaptioner, base_models: Path, env: Environment
) -> Writer:
    if isinstance(section, EndpointCaptioner):
        from components.recaption.captioners.endpoint import EndpointWriter

        return EndpointWriter(section, env.caption_endpoint, env.caption_endpoint_key)
    if isinstance(section, VisionLanguageCaptioner):
        from components.recaption.captioners.vision_language import TransformersWriter

        return TransformersWriter(section, base_models, env)
    from components.recaption.captioners.vllm import VllmWriter

    return VllmWriter(section, base_models)
