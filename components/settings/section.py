"""The strict base class of every params section, and the shared field types."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Item = TypeVar("Item")


def twice_in(items: Sequence[Item]) -> Item | None:
    """Return the first item that occurs a second time."""
    return next((item for index, item in enumerate(items) if item in items[:index]), None)


class Section(BaseModel):
    """Strict, frozen, no unknown keys, no NaN. Only values that nearly everybody keeps have a default."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


Count = Annotated[int, Field(ge=0)]
Seed = Annotated[
    int, Field(ge=0, lt=2**32)
]  # multiplied by a million and more, it still fits torch's 64 bits
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]  # a learning rate, a temperature, a deadline in seconds
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]  # used in file names and column names
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Revision = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]  # ISO 639


def _stays_below(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/") or not path:
        raise ValueError("expected a relative path without `..`")
    return path


BUCKET, FOLDERS = r"s3://[a-z0-9][a-z0-9.-]+[a-z0-9]", r"(/[^\s/?#@{}*]+)*/"
FAR_SHARDS = re.compile(
    rf"(https?://[^\s/?#@{{}}*]+|{BUCKET}){FOLDERS}"
    r"[A-Za-z0-9_.=-]*(\{\d{1,7}\.\.\d{1,7}\}[A-Za-z0-9_.=-]*)?\.tar"
)
FAR_PATTERN = re.compile(rf"{BUCKET}{FOLDERS}[A-Za-z0-9_.=*-]*\.tar")


def _below_or_far(path: str) -> str:
    if "://" not in path:
        return _stays_below(path)
    if not (FAR_SHARDS.fullmatch(path) or FAR_PATTERN.fullmatch(path)):
        raise ValueError(
            "expected https://host/folder/{00000..00331}.tar, s3://bucket/prefix/{00000..00331}.tar or "
            "s3://bucket/prefix/*.tar, without query or credentials"
        )
    return path


def _in_a_bucket(uri: str) -> str:
    if not re.fullmatch(rf"{BUCKET}(/[A-Za-z0-9_.=-]+)*", uri):
        raise ValueError("expected s3://bucket/prefix, without a slash at its end or credentials")
    return uri


BucketUri = Annotated[str, AfterValidator(_in_a_bucket)]
RelativePath = Annotated[str, AfterValidator(_stays_below)]
ShardsPath = Annotated[str, AfterValidator(_below_or_far)]
