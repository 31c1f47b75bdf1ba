"""Resolve a picture's name to a file.

Tables often say `images/cat.jpg` beside a folder `images` that params name as well. A source's names have one
meaning, which its first names decide; whatever the decision, no other rows are read in the other way.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from components.sources.row import ImageFile
from components.sources.values import Rejected, file_below

HEAD_NAMES = 100  # that decide


@dataclass(frozen=True)
class ImageNames:
    """What the names of one source mean.

    Attributes:
        folder: That the pictures lie in, with its links resolved.
        repeats: The parts of its path that every name begins with once more; none where names are below it.
    """

    folder: Path
    repeats: tuple[str, ...] = ()

    def image(self, name: str) -> ImageFile:
        """Return the picture of a name.

        Raises:
            Rejected: there is no name, or it leads out of the folder.
        """
        if not self.repeats or not name:
            return file_below(self.folder, name)
        if not _begins(name, self.repeats):
            raise Rejected("path_outside_folder")
        return file_below(self.folder, "/".join(PurePosixPath(name).parts[len(self.repeats) :]))


def image_names(inputs: Path, images: str, names: Iterable[str]) -> ImageNames:
    """Decide what the names of a source mean.

    They are paths below `images`, unless all of the first hundred begin with that folder, none of them is a
    file below it, and at least one is a file as a path from `inputs`.

    Args:
        inputs: The folder of inputs.
        images: The folder of images, below it.
        names: Of the source's pictures; only the first hundred are looked at.
    """
    folder, parts = inputs / images, PurePosixPath(images).parts
    head = [name for name in islice(names, HEAD_NAMES) if name]
    is_repeated = (
        bool(parts)
        and all(_begins(name, parts) for name in head)
        and not any(os.path.isfile(folder / name) for name in head)
        and any(os.path.isfile(inputs / name) for name in head)
    )
    return ImageNames(folder.resolve(), parts if is_repeated else ())


def _begins(name: str, parts: tuple[str, ...]) -> bool:
    return PurePosixPath(name).parts[: len(parts)] == parts
