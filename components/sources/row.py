"""One row of a source (captions, with or without an image), or its rejection."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from components.sources.scenes.space import Scene
from components.storage.side_tables import Caption

CREDENTIALS = re.compile(r"//[^/?#]*@")


@dataclass(frozen=True)
class ImageUrl:
    """An image to fetch over HTTP; if `sha256` is known, other bytes are refused."""

    url: str
    sha256: str | None = None


@dataclass(frozen=True)
class ImageFile:
    """An image file in a folder; `name` is its path below the source's folder of images."""

    path: Path
    name: str


@dataclass(frozen=True)
class ImageMember:
    """An image in a tar: `size` bytes from `offset` on; `name` is the name of the tar and the member."""

    path: Path
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the image's bytes."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class ImageScene:
    """A scene to draw, `size` pixels wide and high."""

    scene: Scene
    size: int


Image = ImageUrl | ImageFile | ImageMember | ImageScene


@dataclass(frozen=True)
class Row:
    """One image with its captions, or captions without an image."""

    key: str  # lower-case, of a-z, 0-9, _ and -
    split: str  # train, validation or test
    source: str
    captions: list[Caption]  # at least one
    labels: dict[str, list[str]]
    image: Image | None


@dataclass(frozen=True)
class Rejection:
    """An input row that is rejected."""

    key: str
    split: str
    source: str
    reason: str  # a word, counted in metrics
    where: str  # file and line or row number
    url: str
    value: str = field(default="", compare=False)  # the value that was wrong; only for messages

    def described(self) -> str:
        """Return the rejected value and its location, for a message."""
        value = f"{self.value!r} in " if self.value else ""
        url = f", {self.url}" if self.url else ""
        return f"{value}{self.where} of source {self.source}{url}"


def without_credentials(url: str) -> str:
    """Return a URL with its credentials masked, safe to log and store."""
    return CREDENTIALS.sub("//***@", url)
