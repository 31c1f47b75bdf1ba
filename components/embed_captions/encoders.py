"""Create the encoders that params name."""

from __future__ import annotations

from components.embed_captions.encoder import Encoder
from components.embed_captions.llms import Llm
from components.settings.embed_captions import EmbedCaptions, EndpointEncoder, OtherEncoder
from components.settings.environment import Environment
from components.storage.layout import Layout


def encoders_of(params: EmbedCaptions, layout: Layout, env: Environment) -> list[Encoder]:
    """Return all encoders in the order of params; none is loaded yet.

    Raises:
        ConfigurationError: a server's address is missing.
        DataError: a model is missing or damaged.
    """
    llms: list[Encoder] = [Llm(name, layout, params, env.device) for name in params.llms]
    return llms + [_other(section, layout, env) for section in params.others]


def _other(section: OtherEncoder, layout: Layout, env: Environment) -> Encoder:
    if isinstance(section, EndpointEncoder):
        from components.embed_captions.server_encoder import ServerEncoder

        return ServerEncoder(section, layout, env.embedding_endpoint, env.embedding_endpoint_key)
    from components.embed_captions.sentence_encoders import OtherSentenceEncoder

    return OtherSentenceEncoder(section, layout, env.device)
