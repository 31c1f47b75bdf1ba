"""Params of download."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from components.settings.section import BucketUri, Count, Name, Positive, Rate, Section, Share
from components.settings.sources import Source, caption_columns


class Fetch(Section):
    """How one image is fetched over HTTP."""

    deadline_seconds: Rate  # for all attempts and the waits between them, but not for waiting for a turn
    max_bytes: Positive
    retries: Count  # after a broken connection, HTTP 429 or 5xx
    backoff_seconds: Rate  # before the first retry; doubles each time
    connections: Positive  # of all processes together, and at least one of each
    connections_per_host: Positive  # likewise
    max_redirects: Count
    user_agent: str
    allowed_ports: list[Positive]
    allowed_private_hosts: list[str]  # opens loopback or a private network; empty for the internet


class Images(Section):
    """What is kept of an image."""

    size: Positive  # pixels of the longer side after shrinking; smaller images are not enlarged
    jpeg_quality: int = Field(ge=1, le=100)
    min_side: Positive  # pixels
    max_pixels: Positive  # checked before decoding
    max_aspect: Rate
    decode_deadline_seconds: Rate  # of computing; a picture whose decoding takes longer is given up


class Download(Section):
    """Params of download."""

    inputs: Name
    data_root: BucketUri | None  # where shards go instead of artifacts/, once and for good
    sources: list[Source] = Field(min_length=1)
    fetch: Fetch
    images: Images
    shard_rows: Positive
    max_urls_per_body: Positive  # in a shard; bytes that more urls answer with are a placeholder, no picture
    retry_rounds: Count  # raise it to ask again for the rows whose failure may pass; all others stay
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
