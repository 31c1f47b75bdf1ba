"""Resolve a source's path to files and verify pinned hashes.

An image name may or may not repeat the folder: tables often say `images/cat.jpg` beside a folder `images`
that params name as well. The first names of a source decide which of the two holds for all of its names.
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
HEAD_NAMES = 100  # the first names, which decide for all


@dataclass(frozen=True)
class Files:
    """Files sorted by name, and the folder that the names are relative to."""

    folder: Path
    paths: list[Path]

    def name_of(self, path: Path) -> str:
        """Return the name of one of the files, relative to the folder."""
        return path.relative_to(self.folder).as_posix()


def named_files(inputs: Path, path: str, suffixes: Sequence[str]) -> Files:
    """Find the files of a source's path: one file, the matching files of a folder, or those of a pattern.

    A path to a single file may have any suffix; its reader checks the format. Suffixes are matched without
    regard to case.

    Args:
        inputs: The folder that the path is relative to.
        path: From params.
        suffixes: Suffixes of the files to take from a folder.

    Raises:
        ConfigurationError: no file matches, or a folder holds files of two kinds or compressed ones.
    """
    target = inputs / path
    if target.is_file():
        return Files(target.parent, [target])
    if target.is_dir():
        return Files(target, _files_in_folder(target, suffixes))
    if PATTERN_SIGNS.isdisjoint(path):
        siblings = ", ".join(sorted(sibling.name for sibling in target.parent.glob("*"))[:5]) or "nothing"
        raise ConfigurationError(
            f"{target} not found; its folder holds {siblings}: put it there or fix the path"
        )
    matches = sorted((match for match in inputs.glob(path) if _fits(match)), key=Path.as_posix)
    if not matches:
        raise ConfigurationError(
            f"no file fits {target}; expected at least one: put it there or fix the path"
        )

    return Files(inputs.joinpath(*_fixed_parts(path)), matches)


def check_pin(inputs: Path, paths: Sequence[Path], pinned: str | None) -> None:
    """Compare files with the sha256 pinned in params, if there is one.

    One file is pinned by its sha256. Several files are pinned by the sha256 of the list that `sha256sum`
    prints when it is run in `inputs`. The shell sorts the names, so the locale is set for the shell:
    `cd inputs/NAME && (export LC_ALL=C; sha256sum laion/*.parquet | sha256sum)`.

    Raises:
        DataError: the files are not the pinned ones.
    """
    if pinned is None:
        return
    if len(paths) == 1:
        subject, sha256 = str(paths[0]), sha256_of(paths[0])
    else:
        digest = hashlib.sha256()
        for path in paths:
            digest.update(f"{sha256_of(path)}  {path.relative_to(inputs).as_posix()}\n".encode())
        subject, sha256 = f"the list of {len(paths)} files from {paths[0]} on", digest.hexdigest()
    if sha256 != pinned:
        raise DataError(
            f"{subject} has sha256 {sha256}, params pin {pinned}: fetch the pinned files or change the pin"
        )


def _files_in_folder(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    paths = sorted(
        (path for path in folder.iterdir() if _fits(path, suffixes)),
        key=Path.as_posix,
    )
    names = [path.name.lower() for path in paths]
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
    if not paths:
        raise ConfigurationError(f"{folder} holds no {', '.join(suffixes)}; put them there or fix the path")
    return paths


def _packed(folder: Path, suffixes: Sequence[str]) -> str | None:
    """Return the name of a compressed file that would fit once unpacked: skipping it silently loses data."""
    for path in sorted(folder.iterdir()):
        unpacked = PACKED.sub("", PACKED_TAR.sub(".tar.gz", path.name.lower()))
        if _fits(path) and not _fits(path, suffixes) and unpacked.endswith(tuple(suffixes)):
            return path.name
    return None


def _fixed_parts(pattern: str) -> list[str]:
    """Return the leading folders of a pattern that hold no wildcard."""
    parts = pattern.split("/")[:-1]
    count = next((n for n, part in enumerate(parts) if not PATTERN_SIGNS.isdisjoint(part)), len(parts))
    return parts[:count]


def _fits(path: Path, suffixes: Sequence[str] = ("",)) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.name.lower().endswith(tuple(suffixes))


@dataclass(frozen=True)
class ImageNames:
    """How the image names of one source map to paths.

    Attributes:
        folder: The folder of the images, with its links resolved.
        repeats: The parts of the folder's path that every name repeats; empty if names start below it.
    """

    folder: Path
    repeats: tuple[str, ...] = ()

    def image(self, name: str) -> ImageFile:
        """Return the image of a name.

        Raises:
            Rejected: the name is empty, or leads out of the folder.
        """
        if not self.repeats or not name:
            return file_below(self.folder, name)
        if not _begins(name, self.repeats):
            raise Rejected("path_outside_folder")
        return file_below(self.folder, "/".join(PurePosixPath(name).parts[len(self.repeats) :]))


def image_names(inputs: Path, images: str, names: Iterable[str]) -> ImageNames:
    """Decide whether the image names of a source repeat the folder of images.

    They repeat it if all of the first hundred begin with that folder, none of them is a file below it, and at
    least one is a file as a path from `inputs`. Otherwise they are paths below `images`.

    Args:
        inputs: The folder of inputs.
        images: The folder of images, below `inputs`.
        names: The source's image names; only the first hundred are looked at.
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
