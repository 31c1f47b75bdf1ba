"""A place for objects by name, a folder or `s3://bucket/prefix`, with conditional writes."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Protocol

from components.errors import ConfigurationError, DataError
from components.storage.atomic import new_file, sha256_of, write_bytes

LOCK = ".lock"


class Bucket(Protocol):
    """What a registry and a data root need of a store. Names are relative, with `/` between their parts."""

    uri: str

    def read(self, name: str) -> tuple[bytes, str] | None:
        """Return an object's bytes and the tag of this version of it, or None where there is none."""

    def write(self, name: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> bool:
        """Write a whole object; False, and nothing written, when the condition does not hold.

        Args:
            name: The object.
            data: Its bytes.
            if_absent: Only if there is no such object.
            if_match: Only if the object still has this tag, as `read` gave it.
        """

    def exists(self, name: str) -> bool:
        """Say whether there is such an object."""

    def holds(self, name: str, size: int, digest: str) -> bool:
        """Say whether there is such an object, of so many bytes, that was put there as sha256 `digest`."""

    def names(self, below: str = "") -> list[str]:
        """Return the sorted names that start with `below`."""

    def delete(self, name: str) -> None:
        """Remove an object if it is there."""

    def check_conditions(self) -> None:
        """Try whether the store keeps to conditions.

        Raises:
            ConfigurationError: it ignores them, so that two writers could overwrite each other.
        """

    def upload_file(self, path: Path, name: str, digest: str) -> bool:
        """Put a file there; False when it is there already.

        Raises:
            DataError: the bytes that went out do not have the sha256 `digest`.
        """

    def download_file(self, name: str, path: Path, digest: str | None) -> None:
        """Bring an object here.

        Args:
            name: The object.
            path: Where to.
            digest: Its sha256, None where nobody knows it.

        Raises:
            DataError: there is none, or its sha256 is not `digest`; `path` is left as it was.
        """


def open_bucket(uri: str, *, greet: bool = True) -> Bucket:
    """Return the store at a folder's path or at `s3://bucket/prefix`.

    Args:
        uri: The place.
        greet: Ask a first question that tells within seconds whether anybody is there. In the middle of
            work, a network that is gone for a moment shall be ridden out instead.

    Raises:
        ConfigurationError: another scheme, no such bucket, or refused credentials.
        InfrastructureError: the endpoint does not answer.
    """
    scheme, separator, rest = uri.partition(":/")
    if not separator:
        return FolderBucket(Path(uri))
    name, _, prefix = rest.removeprefix("/").partition("/")
    if "@" in name:
        raise ConfigurationError("the store's address holds credentials; give them by the AWS variables")
    if scheme != "s3" or not rest.startswith("/") or not name:
        raise ConfigurationError(f"{uri} is no store we know; expected a folder or s3://bucket/prefix")
    from components.storage.buckets.s3 import S3Bucket

    return S3Bucket(name, prefix.strip("/"), greet=greet)


class FolderBucket:
    """A folder; its conditional writes hold a lock, which binds those who write through this class."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = str(folder)

    def read(self, name: str) -> tuple[bytes, str] | None:
        """See `Bucket`; the tag is the content's sha256."""
        try:
            data = self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        return data, sha256(data).hexdigest()

    def write(self, name: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> bool:
        """See `Bucket`."""
        path = self._path(name)
        with self._locked():
            found = self.read(name)
            if (if_absent and found) or (if_match is not None and (not found or found[1] != if_match)):
                return False
            write_bytes(path, data)
        return True

    def exists(self, name: str) -> bool:
        """See `Bucket`."""
        return self._path(name).is_file()

    def holds(self, name: str, size: int, digest: str) -> bool:
        """See `Bucket`; here the content is read."""
        path = self._path(name)
        return path.is_file() and path.stat().st_size == size and sha256_of(path) == digest

    def names(self, below: str = "") -> list[str]:
        """See `Bucket`."""
        paths = (path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        found = (path.relative_to(self.folder).as_posix() for path in paths)
        return sorted(name for name in found if name.startswith(below))

    def delete(self, name: str) -> None:
        """See `Bucket`."""
        self._path(name).unlink(missing_ok=True)

    def check_conditions(self) -> None:
        """See `Bucket`; the lock keeps them."""

    def upload_file(self, path: Path, name: str, digest: str) -> bool:
        """See `Bucket`; a damaged copy that lies there already is replaced."""
        target = self._path(name)
        if self.holds(name, path.stat().st_size, digest):
            return False
        _copy(path, target, digest)
        return True

    def download_file(self, name: str, path: Path, digest: str | None) -> None:
        """See `Bucket`."""
        source = self._path(name)
        if not source.is_file():
            raise DataError(missing(str(source), digest))
        _copy(source, path, digest)

    def _path(self, name: str) -> Path:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or not parts.parts:
            raise DataError(f"{name!r} is no object's name; expected a relative path without `..`")
        return self.folder / parts

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("a") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            yield


def check_digest(path: Path, digest: str | None, source: str) -> None:
    """Refuse a file that is not the one that was meant, if it is known which.

    Raises:
        DataError: its sha256 is not `digest`.
    """
    if digest is None:
        return
    found = sha256_of(path)
    if found != digest:
        raise DataError(
            f"{source} is damaged: its sha256 is {found[:12]}..., expected {digest[:12]}...; "
            "put it there again"
        )


def missing(source: str, digest: str | None) -> str:
    """Return what is said of an object that is not there."""
    if digest is None:
        return f"{source} not found; put it there or correct its name"
    return f"{source} not found; expected a file of sha256 {digest[:12]}...; put it there again"


def _copy(source: Path, target: Path, digest: str | None) -> None:
    with new_file(target) as part:
        shutil.copyfile(source, part)
        check_digest(part, digest, str(source))
