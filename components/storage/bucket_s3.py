"""`s3://bucket/prefix` as a place for objects; endpoint and keys come from the standard AWS variables."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, ResponseStreamingError

from components.faults import ConfigurationFault, DataFault, InfrastructureFault
from components.storage.atomic import new_file
from components.storage.bucket import check_digest
from components.storage.s3_errors import error_code, explained

# The first request decides quickly whether there is anybody; the work itself rides out a slow or busy server.
GREETING = Config(connect_timeout=3, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 2})
WORK = Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 6})
ATTEMPTS = 5
BACKOFF_SECONDS = 0.2
LOST = ("PreconditionFailed", "412")
BUSY = ("ConditionalRequestConflict", "409")
MISSING = ("NoSuchKey", "404")
NO_TAG = f'"{"0" * 32}"'  # of no object

T = TypeVar("T")
logging.getLogger("botocore").setLevel(logging.WARNING)  # it tells at each start where it found credentials


class S3Bucket:
    """See `components.storage.bucket.Bucket`.

    Raises:
        ConfigurationFault: no credentials, refused ones, or no such bucket.
        InfrastructureFault: the endpoint does not answer.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        with explained(self.uri):
            session = boto3.session.Session()
            greeting = session.client("s3", config=GREETING)
            greeting.list_objects_v2(Bucket=bucket, Prefix=self.prefix, MaxKeys=1)
            self._client = session.client("s3", config=WORK)

    def read(self, name: str) -> tuple[bytes, str] | None:
        """See `Bucket`; the tag is the ETag."""

        def attempt() -> tuple[bytes, str] | None:
            answer = self._client.get_object(**self._object(name))
            return answer["Body"].read(), answer["ETag"]

        with explained(self.uri):
            try:
                return _patiently(attempt)
            except ClientError as error:
                if error_code(error) in MISSING:
                    return None
                raise

    def write(self, name: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> bool:
        """See `Bucket`; a request that lost to itself by a retry counts as lost, so read back to be sure."""
        conditions: dict[str, str] = {"IfNoneMatch": "*"} if if_absent else {}
        if if_match is not None:
            conditions["IfMatch"] = if_match
        with explained(self.uri):
            try:
                _patiently(lambda: self._client.put_object(**self._object(name), Body=data, **conditions))
            except ClientError as error:
                if conditions and error_code(error) in (*LOST, *MISSING):
                    return False
                if conditions and error_code(error) == "NotImplemented":
                    raise ConfigurationFault(
                        f"{self.uri}: the endpoint has no conditional writes; a registry needs them"
                    ) from None
                raise
        return True

    def exists(self, name: str) -> bool:
        """See `Bucket`."""
        return self._head(name) is not None

    def names(self, below: str = "") -> list[str]:
        """See `Bucket`."""
        with explained(self.uri):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + below
            )
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return sorted(key.removeprefix(self.prefix) for key in keys)

    def delete(self, name: str) -> None:
        """See `Bucket`."""
        with explained(self.uri):
            self._client.delete_object(**self._object(name))

    def check_conditions(self) -> None:
        """See `Bucket`; writes a small object of its own and removes it."""
        name = f"probes/{uuid4().hex}"
        try:
            kept = (
                self.write(name, b"1", if_absent=True)
                and not self.write(name, b"2", if_absent=True)
                and not self.write(name, b"3", if_match=NO_TAG)
            )
        finally:
            self.delete(name)
        if not kept:
            raise ConfigurationFault(
                f"{self.uri}: the endpoint ignores If-None-Match or If-Match, so two writers could overwrite "
                "each other; expected conditional writes: take another S3 server, or a folder"
            )

    def upload_file(self, path: Path, name: str, digest: str) -> bool:
        """See `Bucket`; large files go up in parts, and a failure leaves no parts behind."""
        found = self._head(name)
        size = path.stat().st_size
        if found and found["ContentLength"] == size and found["Metadata"].get("sha256") == digest:
            return False
        check_digest(path, digest, str(path))
        with explained(self.uri), path.open("rb") as file:
            extra = {"Metadata": {"sha256": digest}, "ChecksumAlgorithm": "SHA256"}
            self._client.upload_fileobj(file, self.bucket, self.prefix + name, ExtraArgs=extra)
        found = self._head(name)
        if not found or found["ContentLength"] != size:
            raise InfrastructureFault(f"{self.uri}/{name} was not stored whole; run it again")
        return True

    def download_file(self, name: str, path: Path, digest: str) -> None:
        """See `Bucket`."""
        if not self._head(name):
            raise DataFault(f"{self.uri}/{name} not found; expected it in this registry")
        with new_file(path) as part:
            with explained(self.uri), part.open("wb") as file:
                self._client.download_fileobj(self.bucket, self.prefix + name, file)
            check_digest(part, digest, f"{self.uri}/{name}")

    def _head(self, name: str) -> dict[str, Any] | None:
        with explained(self.uri):
            try:
                return self._client.head_object(**self._object(name))
            except ClientError as error:
                if error_code(error) in MISSING:
                    return None
                raise

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + name}


def _patiently(attempt: Callable[[], T]) -> T:
    """Try again after what botocore does not: a body cut short, or two conditional writes at one moment."""
    for number in range(ATTEMPTS - 1):
        try:
            return attempt()
        except ClientError as error:
            if error_code(error) not in BUSY:
                raise
        except ResponseStreamingError:
            pass
        time.sleep(BACKOFF_SECONDS * 2**number)
    return attempt()
