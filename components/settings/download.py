"""Params of download."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from components.settings.section import BucketUri, Count, Name, Positive, Rate, Section, Share
from components.settings.sources import Source, caption_columns


class Fetch(Section):
    """How one image is fetched over HTTP."""

    deadline_seconds: Rate = (
        20.0  # for all attempts and the waits between them, without the wait for a free connection
    )
    max_bytes: Positive = 20_000_000
    retries: Count = 2  # after a broken connection, HTTP 429 or 5xx
    backoff_seconds: Rate = 0.5  # before the first retry; doubles each time
    connections: Positive = 64  # over all processes, and at least one for each
    connections_per_host: Positive = 8  # over all processes, and at least one for each
    max_redirects: Count = 5
    user_agent: str = "llm2clip-pipeline"
    allowed_ports: list[Positive] = Field(default_factory=lambda: [80, 443])
    allowed_private_hosts: list[str] = Field(
        default_factory=list
    )  # hosts on loopback or a private network that may be fetched from; empty: none


class Images(Section):
    """How an image is checked, shrunk and stored."""

    size: Positive  # pixels of the longer side after shrinking; smaller images are not enlarged
    jpeg_quality: int = Field(default=95, ge=1, le=100)
    min_side: Positive = 32  # pixels
    max_pixels: Positive = 64_000_000  # checked before decoding
    max_aspect: Rate = 4.0
    decode_deadline_seconds: Rate = 30.0  # CPU time; an image that takes longer to decode is rejected


class Download(Section):
    """Params of download."""

    inputs: Name
    data_root: BucketUri | None = None  # bucket that shards are kept in permanently, instead of artifacts/
    sources: list[Source] = Field(min_length=1)
    fetch: Fetch = Field(default_factory=Fetch)
    images: Images
    shard_rows: Positive = 10_000
    max_urls_per_body: Positive = (
        10  # in all lists; if more urls return the same bytes, they are a placeholder, no image
    )
    retry_rounds: Count = 0  # raise it to retry the rows with a transient failure; all other rows stay
    max_reject_share: Share

    @model_validator(mode="after")
    def _sources_have_names_of_their_own(self) -> Self:
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"two sources have one name ({', '.join(names)}); give each its own")
        return self

    @model_validator(mode="after")
    def _columns_have_one_writer(self) -> Self:
        caption_columns(self.sources)
        return self
