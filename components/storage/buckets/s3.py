"""Object store in S3 (`s3://bucket/prefix`); endpoint and keys come from the standard AWS variables."""

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

# The first request shows quickly whether the endpoint answers. Later requests ride out transient errors: a
# request that fails by 5xx, reset or time-out is sent 6 times, with up to 1, 2, 4, 8 and 16 seconds between.
# A part of a download whose body was cut is requested 5 times. A longer failure is exit 4, and the flow
# retries the stage.
GREETING = Config(connect_timeout=3, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 2})
WORK = Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 6})
# A file is transferred in parts, and only the failed part is sent again (downloads: by Range, under
# If-Match). Few parts at once, so that memory does not grow with the file.
PARTS = TransferConfig(multipart_chunksize=8 << 20, max_concurrency=4, max_io_queue=64)
ATTEMPTS = 5
BACKOFF_SECONDS = 0.2
LOST = ("PreconditionFailed", "412")
BUSY = ("ConditionalRequestConflict", "409")
MISSING = ("NoSuchKey", "404")
NO_TAG = f'"{"0" * 32}"'  # an ETag that no object has

T = TypeVar("T")
logging.getLogger("botocore").setLevel(logging.WARNING)  # it logs at each start where it found credentials
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
                return _with_retries(attempt)
            except ClientError as error:
                if error_code(error) in MISSING:
                    return None
                raise

    def write(self, name: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> bool:
        """See `Bucket`; may return False for its own write after a retry: read back to be sure."""
        conditions: dict[str, str] = {"IfNoneMatch": "*"} if if_absent else {}
        if if_match is not None:
            conditions["IfMatch"] = if_match
        with self._explained(name):
            try:
                _with_retries(lambda: self._client.put_object(**self._object(name), Body=data, **conditions))
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
        """See `Bucket`; compares the sha256 in the object's metadata, which a copy may lack."""
        head = self._head(name)
        return bool(head and head["ContentLength"] == size and head["Metadata"].get("sha256") == digest)

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
        """See `Bucket`; writes a small test object and removes it."""
        name = f"probes/{uuid4().hex}"
        try:
            is_respected = (
                self.write(name, b"1", if_absent=True)
                and not self.write(name, b"2", if_absent=True)
                and not self.write(name, b"3", if_match=NO_TAG)
            )
        finally:
            self.delete(name)
        if not is_respected:
            raise ConfigurationError(
                f"{self.uri}: the endpoint ignores If-None-Match or If-Match, so two writers could overwrite "
                "each other; expected conditional writes: take another S3 server, or a folder"
            )

    def upload_file(self, path: Path, name: str, digest: str) -> bool:
        """See `Bucket`; uploads large files in parts, and a failure leaves no parts behind."""
        size = path.stat().st_size
        if self.holds(name, size, digest):
            return False
        check_digest(path, digest, str(path))
        extra = {"Metadata": {"sha256": digest}, "ChecksumAlgorithm": "SHA256"}
        with self._explained(name), create_transfer_manager(self._client, PARTS) as transfer:
            try:
                # from the path: the parts of an open file would be held in memory
                transfer.upload(str(path), self.bucket, self.prefix + name, extra).result()
            except ClientError as error:
                # the completion was sent twice, because its first answer was lost
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
            self._client.list_objects_v2(**request)  # the endpoint answers, but is busy

    def _explained(self, name: str) -> AbstractContextManager[None]:
        return explained(f"{self.uri}/{name}")

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + name}


def _is_transient(error: BaseException) -> bool:
    """Return whether to retry an error that botocore does not: a cut body, two conditional writes at once."""
    return isinstance(error, ResponseStreamingError) or (
        isinstance(error, ClientError) and error_code(error) in BUSY
    )


def _with_retries(attempt: Callable[[], T]) -> T:
    """Call `attempt`, and retry transient errors."""
    wait = wait_exponential(BACKOFF_SECONDS)
    stop, retry = stop_after_attempt(ATTEMPTS), retry_if_exception(_is_transient)
    return Retrying(stop=stop, wait=wait, retry=retry, reraise=True)(attempt)


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn boto's errors into pipeline errors.

    Raises:
        ConfigurationError: no credentials, refused ones, no such bucket, or a wrong address.
        DataError: an object's bytes do not match its checksum in the bucket.
        InfrastructureError: no answer, or an error that may pass.
    """
    try:
        yield
    except ClientError as error:
        raise _pipeline_error(uri, error_code(error)) from None
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
            f"{uri} is damaged: its bytes do not match its checksum; put it there again"
        ) from None
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError(
            f"{uri}: {str(error).splitlines()[0]}; correct the AWS variables or the address"
        ) from None


def error_code(error: ClientError) -> str:
    """Return S3's code of an error, e.g. NoSuchKey."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _pipeline_error(uri: str, code: str) -> PipelineError:
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
