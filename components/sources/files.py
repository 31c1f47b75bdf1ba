"""Resolve a source's path to files and verify pinned hashes.

A picture's name may or may not repeat the folder: tables often say `images/cat.jpg` beside a folder `images`
that params name as well. A source's names have one meaning, which its first names decide; whatever the
decision, no other rows are read in the other way.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from components.errors import ConfigurationError, DataError
from components.sources.row import ImageFile
from components.sources.values import Rejected, file_below
from components.storage.atomic import sha256_of

PATTERN_SIGNS = frozenset("*?[")
PACKED = re.compile(r"\.(gz|bz2|xz|zst|lz4|z|zip|7z|rar)$")
PACKED_TAR = re.compile(r"\.t(gz|bz2?|xz|zst)$")


@dataclass(frozen=True)
class Files:
    """Files in the order of their names, and the folder that the names are relative to."""

    folder: Path
    paths: list[Path]

    def name_of(self, path: Path) -> str:
        """Return what tells one of the files from the others."""
        return path.relative_to(self.folder).as_posix()


def named_files(inputs: Path, path: str, suffixes: Sequence[str]) -> Files:
    """Find what a source's path names: one file, the fitting files of a folder, or those of a pattern.

    A file named as such may have any suffix; whoever reads it says whether it fits. Upper and lower case of
    suffixes are one.

    Args:
        inputs: The folder that the path is relative to.
        path: Of params.
        suffixes: Of the files wanted, where there may be many.

    Raises:
        ConfigurationError: nothing fits, or a folder holds files of two kinds or compressed ones.
    """
    place = inputs / path
    if place.is_file():
        return Files(place.parent, [place])
    if place.is_dir():
        return Files(place, _of_folder(place, suffixes))
    if PATTERN_SIGNS.isdisjoint(path):
        there = ", ".join(sorted(one.name for one in place.parent.glob("*"))[:5]) or "nothing"
        raise ConfigurationError(
            f"{place} not found; its folder holds {there}: put it there or mend the path"
        )
    found = sorted((one for one in inputs.glob(path) if _fits(one)), key=Path.as_posix)
    if not found:
        raise ConfigurationError(
            f"no file fits {place}; expected at least one: put it there or mend the path"
        )

    return Files(inputs.joinpath(*_fixed_parts(path)), found)


def check_pin(inputs: Path, paths: Sequence[Path], pinned: str | None) -> None:
    """Compare files with the pin of params, if there is one.

    One file is pinned by its sha256. Many are pinned by that of the list which sha256sum prints of them,
    started in `inputs`. It is the shell that puts the names in order, so the locale is set for the shell:
    `cd inputs/NAME && (export LC_ALL=C; sha256sum laion/*.parquet | sha256sum)`.

    Raises:
        DataError: they are not the pinned ones.
    """
    if pinned is None:
        return
    if len(paths) == 1:
        what, found = str(paths[0]), sha256_of(paths[0])
    else:
        digest = hashlib.sha256()
        for path in paths:
            digest.update(f"{sha256_of(path)}  {path.relative_to(inputs).as_posix()}\n".encode())
        what, found = f"the list of {len(paths)} files from {paths[0]} on", digest.hexdigest()
    if found != pinned:
        raise DataError(f"{what} has sha256 {found}, params pin {pinned}: fetch what is pinned or change it")


def _of_folder(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    found = sorted(
        (one for one in folder.iterdir() if _fits(one, suffixes)),
        key=Path.as_posix,
    )
    names = [one.name.lower() for one in found]
    kinds = sorted({suffix for suffix in suffixes if any(name.endswith(suffix) for name in names)})
    if len(kinds) > 1:
        raise ConfigurationError(
            f"{folder} holds files of {len(kinds)} kinds, {', '.join(kinds)}; name one with a pattern: "
            f"{folder.name}/*{kinds[0]}"
        )
    if packed := _packed(folder, suffixes):
        raise ConfigurationError(
            f"{folder} holds {packed}, which is compressed; expected {', '.join(suffixes)}: unpack it, or "
            "move it elsewhere"
        )
    if not found:
        raise ConfigurationError(f"{folder} holds no {', '.join(suffixes)}; put them there or mend the path")
    return found


def _packed(folder: Path, suffixes: Sequence[str]) -> str | None:
    """Return the name of a file that would fit if it were unpacked; it must not be passed over in silence."""
    for path in sorted(folder.iterdir()):
        unpacked = PACKED.sub("", PACKED_TAR.sub(".tar.gz", path.name.lower()))
        if _fits(path) and not _fits(path, suffixes) and unpacked.endswith(tuple(suffixes)):
            return path.name
    return None


def _fixed_parts(pattern: str) -> list[str]:
    """Return the folders that a pattern begins with."""
    parts = pattern.split("/")[:-1]
    first = next((n for n, part in enumerate(parts) if not PATTERN_SIGNS.isdisjoint(part)), len(parts))
    return parts[:first]


def _fits(path: Path, suffixes: Sequence[str] = ("",)) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.name.lower().endswith(tuple(suffixes))


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
