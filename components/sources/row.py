"""One row of a source: an image or none, with its captions; or why there is no row."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from components.sources.scenes.space import Scene
from components.storage.side_tables import Caption

CREDENTIALS = re.compile(r"//[^/?#]*@")


@dataclass(frozen=True)
class ImageUrl:
    """An image to be fetched; other bytes than those of `sha256` are refused where it is known."""

    url: str
    sha256: str | None = None


@dataclass(frozen=True)
class ImageFile:
    """An image that lies in a folder; `name` is its path below the source's folder of images."""

    path: Path
    name: str


@dataclass(frozen=True)
class ImageMember:
    """An image that is `size` bytes of a tar, from `offset` on; `name` is that of tar and member."""

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
    """An image to be drawn, `size` pixels wide and high."""

    scene: Scene
    size: int


Image = ImageUrl | ImageFile | ImageMember | ImageScene


@dataclass(frozen=True)
class Row:
    """One image with its captions, or captions alone."""

    key: str  # lower-case, of a-z, 0-9, _ and -
    split: str  # train, validation or test
    source: str
    captions: list[Caption]  # at least one
    labels: dict[str, list[str]]
    image: Image | None


@dataclass(frozen=True)
class Rejection:
    """An input row that gives no row."""

    key: str
    split: str
    source: str
    reason: str  # a word, counted in metrics
    where: str  # file and line or row number
    url: str
    value: str = field(default="", compare=False)  # that was not what it should be; for messages alone

    def described(self) -> str:
        """Return for a message which row it is and what it holds."""
        value = f"{self.value!r} in " if self.value else ""
        url = f", {self.url}" if self.url else ""
        return f"{value}{self.where} of source {self.source}{url}"


def without_credentials(url: str) -> str:
    """Return a URL as it may be logged and kept."""
    return CREDENTIALS.sub("//***@", url)
