"""Rows of WebDataset shards that are there already: img2dataset's output, or any tars of its layout.

A sample is the run of members whose names agree up to the first dot of the file name. Of it the image stays
in the tar and is named by its place; `.txt` and `.json` are read; members of other kinds are never decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO

from components.faults import DataFault
from components.settings.sources import Shards
from components.sources.files import check_pin, named_files
from components.sources.members import IMAGE_KINDS, MAX_TEXT_BYTES, TEXT_KINDS, Found, row_of
from components.sources.row import Image, ImageMember, Rejection, Row
from components.sources.texts import Rejected, whole_text
from components.storage.tar_index import Member, tar_index


@dataclass(frozen=True)
class Sample:
    """The members of one key, by kind."""

    key: str
    kinds: dict[str, Member] = field(default_factory=dict)

    def is_row(self) -> bool:
        """Say whether it holds an image or a caption, be it one of the wrong name (`1.left.jpg`)."""
        last = {kind.rpartition(".")[2] for kind in self.kinds}
        return not last.isdisjoint(IMAGE_KINDS + TEXT_KINDS)


def read_shards(source: Shards, inputs: Path) -> Iterator[Row | Rejection]:
    """Yield the samples of each shard in their order; the index of one shard is in memory.

    Keys are made of the source's name, the shard's and the sample's, for shards may count from zero each.

    Args:
        source: From params.
        inputs: The folder its path is relative to; for shards that were brought here, the one they are in.

    Raises:
        ConfigurationFault: no shard fits the path.
        DataFault: a shard is cut, damaged, empty, not the pinned one, holds other than plain files, or a key
            occurs twice in it.
    """
    files = named_files(inputs, "." if source.is_far else source.path, (".tar",))
    check_pin(inputs, files.paths, source.sha256)
    rows = (row for path in files.paths for row in _rows(source, path, files.name_of(path)))
    yield from islice(rows, source.limit)


def _rows(source: Shards, path: Path, name: str) -> Iterator[Row | Rejection]:
    samples = samples_of(path)
    with path.open("rb") as file:
        for sample in samples:
            found = Found(
                key=f"{name.removesuffix('.tar')}_{sample.key}",
                where=f"{name} sample {sample.key}",
                image=_image(path, name, sample),
                texts={kind: _text(file, sample.kinds[kind]) for kind in TEXT_KINDS if kind in sample.kinds},
            )
            yield row_of(source, found)


def samples_of(path: Path) -> list[Sample]:
    """Return what a shard holds.

    Raises:
        DataFault: it is cut, damaged, empty, holds other than plain files, or a key twice.
    """
    samples: dict[str, Sample] = {}
    last = None
    for member in tar_index(path):
        folder, slash, name = member.name.rpartition("/")
        stem, dot, kind = name.partition(".")
        if not stem or not dot:
            continue
        key, kind = f"{folder}{slash}{stem}", kind.lower()
        if (key in samples and key != last) or (key in samples and kind in samples[key].kinds):
            raise DataFault(
                f"{path} holds {member.name} twice, or apart from the other files of its key; expected the "
                "files of a key side by side: pack it again"
            )
        last = key
        sample = samples.setdefault(key, Sample(key))
        sample.kinds[kind] = member
    found = [one for one in samples.values() if one.is_row()]
    if not found:
        raise DataFault(
            f"{path} holds no image and no caption; expected members KEY.jpg and KEY.txt or KEY.json"
        )
    return found


def _image(path: Path, name: str, sample: Sample) -> Image | Rejected:
    images = [sample.kinds[kind] for kind in IMAGE_KINDS if kind in sample.kinds]
    if len(images) != 1:
        return Rejected("several_images" if images else "no_image")
    try:
        whole = whole_text(f"{name}/{images[0].name}")
    except Rejected as reason:
        return reason
    return ImageMember(path, whole, images[0].offset, images[0].size)


def _text(file: IO[bytes], member: Member) -> bytes | Rejected:
    if member.size > MAX_TEXT_BYTES:
        return Rejected("too_large")
    return member.read(file)
