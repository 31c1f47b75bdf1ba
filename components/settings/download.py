"""Params of download."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from components.settings.section import BucketUri, Count, Name, Positive, Rate, Section, Share
from components.settings.sources import Source, caption_columns


class Fetch(Section):
    """How one image is fetched over HTTP."""

    deadline_seconds: Rate = (
        20.0  # for all attempts and the waits between them, but not for waiting for a turn
    )
    max_bytes: Positive = 20_000_000
    retries: Count = 2  # after a broken connection, HTTP 429 or 5xx
    backoff_seconds: Rate = 0.5  # before the first retry; doubles each time
    connections: Positive = 64  # of all processes together, and at least one of each
    connections_per_host: Positive = 8  # likewise
    max_redirects: Count = 5
    user_agent: str = "llm2clip-pipeline"
    allowed_ports: list[Positive] = Field(default_factory=lambda: [80, 443])
    allowed_private_hosts: list[str] = Field(
        default_factory=list
    )  # opens loopback or a private network; empty for the internet


class Images(Section):
    """What is kept of an image."""

    size: Positive  # pixels of the longer side after shrinking; smaller images are not enlarged
    jpeg_quality: int = Field(default=95, ge=1, le=100)
    min_side: Positive = 32  # pixels
    max_pixels: Positive = 64_000_000  # checked before decoding
    max_aspect: Rate = 4.0
    decode_deadline_seconds: Rate = 30.0  # of computing; a picture whose decoding takes longer is given up


class Download(Section):
    """Params of download."""

    inputs: Name
    data_root: BucketUri | None = None  # where shards go instead of artifacts/, once and for good
    sources: list[Source] = Field(min_length=1)
    fetch: Fetch = Field(default_factory=Fetch)
    images: Images
    shard_rows: Positive = 10_000
    max_urls_per_body: Positive = (
        10  # in a shard; bytes that more urls answer with are a placeholder, no picture
    )
    retry_rounds: Count = 0  # raise it to ask again for the rows whose failure may pass; all others stay
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
