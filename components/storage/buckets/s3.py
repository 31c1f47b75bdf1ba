"""`s3://bucket/prefix` as a place for objects; endpoint and keys come from the standard AWS variables."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
)
from s3transfer.exceptions import RetriesExceededError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from components.errors import ConfigurationError, DataError, InfrastructureError, PipelineError
from components.storage.atomic import new_file
from components.storage.buckets.bucket import check_digest, missing

# The first request decides quickly whether there is anybody. The work rides out what passes: a request that
# fails by 5xx, reset or time-out is sent 6 times, with up to 1, 2, 4, 8 and 16 seconds between, and a part of
# a download whose body was cut 5 times. What lasts longer is exit 4, and the flow tries the stage again.
GREETING = Config(connect_timeout=3, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 2})
WORK = Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 6})
# A file travels in parts, which alone are sent again after a cut (down: by Range, under If-Match). Few at
# once: memory does not grow with the file.
PARTS = TransferConfig(multipart_chunksize=8 << 20, max_concurrency=4, max_io_queue=64)
ATTEMPTS = 5
BACKOFF_SECONDS = 0.2
LOST = ("PreconditionFailed", "412")
BUSY = ("ConditionalRequestConflict", "409")
MISSING = ("NoSuchKey", "404")
NO_TAG = f'"{"0" * 32}"'  # of no object

T = TypeVar("T")
logging.getLogger("botocore").setLevel(logging.WARNING)  # it tells at each start where it found credentials


class S3Bucket:
    """See `components.storage.buckets.bucket.Bucket`.

    Raises:
        ConfigurationError: no credentials, refused ones, or no such bucket.
        InfrastructureError: the endpoint does not answer.
    """

    def __init__(self, bucket: str, prefix: str, *, greet: bool = True) -> None:
        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        with explained(self.uri):
            session = boto3.session.Session()
            self._client = session.client("s3", config=WORK)
            if greet:
                self._greet(session.client("s3", config=GREETING))

    def read(self, name: str) -> tuple[bytes, str] | None:
        """See `Bucket`; the tag is the ETag."""

        def attempt() -> tuple[bytes, str] | None:
            answer = self._client.get_object(**self._object(name))
            return answer["Body"].read(), answer["ETag"]

        with self._explained(name):
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
        with self._explained(name):
            try:
                _patiently(lambda: self._client.put_object(**self._object(name), Body=data, **conditions))
            except ClientError as error:
                if conditions and error_code(error) in (*LOST, *MISSING):
                    return False
                if conditions and error_code(error) == "NotImplemented":
                    raise ConfigurationError(
                        f"{self.uri}: the endpoint has no conditional writes; a registry needs them"
                    ) from None
                raise
        return True

    def exists(self, name: str) -> bool:
        """See `Bucket`."""
        return self._head(name) is not None

    def holds(self, name: str, size: int, digest: str) -> bool:
        """See `Bucket`; by what was written beside the object, which a copy may lack."""
        found = self._head(name)
        return bool(found and found["ContentLength"] == size and found["Metadata"].get("sha256") == digest)

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
        with self._explained(name):
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
            raise ConfigurationError(
                f"{self.uri}: the endpoint ignores If-None-Match or If-Match, so two writers could overwrite "
                "each other; expected conditional writes: take another S3 server, or a folder"
            )

    def upload_file(self, path: Path, name: str, digest: str) -> bool:
        """See `Bucket`; large files go up in parts, and a failure leaves no parts behind."""
        size = path.stat().st_size
        if self.holds(name, size, digest):
            return False
        check_digest(path, digest, str(path))
        extra = {"Metadata": {"sha256": digest}, "ChecksumAlgorithm": "SHA256"}
        with self._explained(name), create_transfer_manager(self._client, PARTS) as transfer:
            try:
                # from the path, not from an open file, whose parts would be held in memory
                transfer.upload(str(path), self.bucket, self.prefix + name, extra).result()
            except ClientError as error:
                # its end was sent twice, because the first answer to it was lost
                if error_code(error) != "NoSuchUpload":
                    raise
        if not self.holds(name, size, digest):
            raise InfrastructureError(f"{self.uri}/{name} was not stored whole; run it again")
        return True

    def download_file(self, name: str, path: Path, digest: str | None) -> None:
        """See `Bucket`."""
        with new_file(path) as part:
            with self._explained(name), part.open("wb") as file:
                try:
                    self._client.download_fileobj(self.bucket, self.prefix + name, file, Config=PARTS)
                except ClientError as error:
                    if error_code(error) in MISSING:
                        raise DataError(missing(f"{self.uri}/{name}", digest)) from None
                    raise
            check_digest(part, digest, f"{self.uri}/{name}")

    def _head(self, name: str) -> dict[str, Any] | None:
        with self._explained(name):
            try:
                return self._client.head_object(**self._object(name))
            except ClientError as error:
                if error_code(error) in MISSING:
                    return None
                raise

    def _greet(self, quick: Any) -> None:  # noqa: ANN401 - a client
        request = {"Bucket": self.bucket, "Prefix": self.prefix, "MaxKeys": 1}
        try:
            quick.list_objects_v2(**request)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] < HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            self._client.list_objects_v2(**request)  # somebody is there, and busy

    def _explained(self, name: str) -> AbstractContextManager[None]:
        return explained(f"{self.uri}/{name}")

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + name}


def _may_pass(error: BaseException) -> bool:
    """Say whether to try again after what botocore does not: a cut body, two conditional writes at once."""
    return isinstance(error, ResponseStreamingError) or (
        isinstance(error, ClientError) and error_code(error) in BUSY
    )


def _patiently(attempt: Callable[[], T]) -> T:
    """Try again where it may help."""
    wait = wait_exponential(BACKOFF_SECONDS)
    stop, retry = stop_after_attempt(ATTEMPTS), retry_if_exception(_may_pass)
    return Retrying(stop=stop, wait=wait, retry=retry, reraise=True)(attempt)


REFUSED = {
    "AccessDenied",
    "AllAccessDisabled",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "401",
    "403",
}
MISTAKEN = {
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "InvalidBucketName",
    "MethodNotAllowed",
    "PermanentRedirect",
}


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn boto's errors about a place into faults.

    Raises:
        ConfigurationError: no credentials, refused ones, no such bucket, or a wrong address.
        DataError: an object's bytes are not those that its checksum in the bucket is of.
        InfrastructureError: no answer, or one that may be another later.
    """
    try:
        yield
    except ClientError as error:
        raise _fault(uri, error_code(error)) from None
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise ConfigurationError(
            f"{uri}: {str(error).lower()}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from None
    except (ConnectionError, HTTPClientError, ResponseStreamingError, RetriesExceededError) as error:
        raise InfrastructureError(
            f"{uri}: {str(getattr(error, 'last_exception', error)).splitlines()[0]}; "
            "look at AWS_ENDPOINT_URL_S3 and the network, then run again"
        ) from None
    except FlexibleChecksumError:
        raise DataError(
            f"{uri} is damaged: its bytes are not those of its checksum; put it there again"
        ) from None
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError(
            f"{uri}: {str(error).splitlines()[0]}; correct the AWS variables or the address"
        ) from None


def error_code(error: ClientError) -> str:
    """Return S3's word for an error, e.g. NoSuchKey."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _fault(uri: str, code: str) -> PipelineError:
    if code == "NoSuchBucket":
        return ConfigurationError(
            f"{uri}: there is no such bucket; make it, or correct the address or AWS_ENDPOINT_URL_S3"
        )
    if code in REFUSED:
        return ConfigurationError(
            f"{uri}: S3 refused the credentials ({code}); "
            "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or their rights on this bucket"
        )
    if code in MISTAKEN:
        return ConfigurationError(
            f"{uri}: S3 answered {code}; correct AWS_ENDPOINT_URL_S3, AWS_DEFAULT_REGION or the address"
        )
    return InfrastructureError(f"{uri}: S3 answered {code}; run it again later")
