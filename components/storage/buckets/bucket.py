"""Object store with conditional writes: a folder, or `s3://bucket/prefix`."""

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
    """The object store that the registry and a data root need. Names are relative, with `/` as separator."""

    uri: str

    def read(self, name: str) -> tuple[bytes, str] | None:
        """Return an object's bytes and the tag of its version, or None if there is no such object."""

    def write(self, name: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> bool:
        """Write a whole object; write nothing and return False if the condition does not hold.

        Args:
            name: The object's name.
            data: The object's bytes.
            if_absent: Write only if there is no such object.
            if_match: Write only if the object still has this tag, as `read` returned it.
        """

    def exists(self, name: str) -> bool:
        """Return whether the object exists."""

    def holds(self, name: str, size: int, digest: str) -> bool:
        """Return whether the object exists, has `size` bytes and was uploaded with the sha256 `digest`."""

    def names(self, below: str = "") -> list[str]:
        """Return the sorted names that start with `below`."""

    def delete(self, name: str) -> None:
        """Remove an object, if it exists."""

    def check_conditions(self) -> None:
        """Test whether the store respects the conditions of writes.

        Raises:
            ConfigurationError: the store ignores them, so two writers could overwrite each other.
        """

    def upload_file(self, path: Path, name: str, digest: str) -> bool:
        """Upload a file; return False if the object exists already.

        Raises:
            DataError: the uploaded bytes do not have the sha256 `digest`.
        """

    def download_file(self, name: str, path: Path, digest: str | None) -> None:
        """Download an object.

        Args:
            name: The object's name.
            path: The file to write.
            digest: The object's sha256; None if it is unknown.

        Raises:
            DataError: there is no such object, or its sha256 is not `digest`; `path` is left unchanged.
        """


def open_bucket(uri: str, *, greet: bool = True) -> Bucket:
    """Return the object store at a folder's path or at `s3://bucket/prefix`.

    Args:
        uri: Path of the folder, or address of the bucket.
        greet: Send a first request that shows within seconds whether the endpoint answers. In the middle of
            work, False rides out a short network failure instead.

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
    """An object store in a folder; conditional writes hold a lock that all writers of this class respect."""

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
            current = self.read(name)
            if (if_absent and current) or (if_match is not None and (not current or current[1] != if_match)):
                return False
            write_bytes(path, data)
        return True

    def exists(self, name: str) -> bool:
        """See `Bucket`."""
        return self._path(name).is_file()

    def holds(self, name: str, size: int, digest: str) -> bool:
        """See `Bucket`; reads the content."""
        path = self._path(name)
        return path.is_file() and path.stat().st_size == size and sha256_of(path) == digest

    def names(self, below: str = "") -> list[str]:
        """See `Bucket`."""
        paths = (path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        names = (path.relative_to(self.folder).as_posix() for path in paths)
        return sorted(name for name in names if name.startswith(below))

    def delete(self, name: str) -> None:
        """See `Bucket`."""
        self._path(name).unlink(missing_ok=True)

    def check_conditions(self) -> None:
        """See `Bucket`; the lock enforces them."""

    def upload_file(self, path: Path, name: str, digest: str) -> bool:
        """See `Bucket`; replaces an existing damaged copy."""
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
    """Compare a file with its expected sha256, if that is known.

    Raises:
        DataError: the file's sha256 is not `digest`.
    """
    if digest is None:
        return
    actual = sha256_of(path)
    if actual != digest:
        raise DataError(
            f"{source} is damaged: its sha256 is {actual[:12]}..., expected {digest[:12]}...; "
            "put it there again"
        )


def missing(source: str, digest: str | None) -> str:
    """Return the error message for a missing object."""
    if digest is None:
        return f"{source} not found; put it there or correct its name"
    return f"{source} not found; expected a file of sha256 {digest[:12]}...; put it there again"


def _copy(source: Path, target: Path, digest: str | None) -> None:
    with new_file(target) as part:
        shutil.copyfile(source, part)
        check_digest(part, digest, str(source))
