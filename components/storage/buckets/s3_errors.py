"""Translate S3 errors to one-line pipeline errors without keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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

from components.errors import ConfigurationError, DataError, InfrastructureError, PipelineError

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
