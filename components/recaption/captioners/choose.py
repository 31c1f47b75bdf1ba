"""Which captioner each entry of `recaption.captioners` is."""

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
    """Yield the captioners of params; what one needs is imported only where it is named.

    Args:
        params: Of the run.
        base_models: The artifact of base_models.
        env: Device, address and key of the endpoint.

    Raises:
        ConfigurationError: what one of them needs is missing.
    """
    given = FromSources(params.download.sources)
    for one in params.recaption.captioners:
        if isinstance(one, ColumnsCaptioner):
            yield FromColumns(one, given)
        elif isinstance(one, ModelCaptioner):
            from components.recaption.captioners.made import FromPixels

            yield FromPixels(one, base_models, env.device)
        else:
            retry_rounds = one.requests.retry_rounds if isinstance(one, EndpointCaptioner) else 0
            yield FromPrompts(one, params.seed, _writer(one, base_models, env), retry_rounds)


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
