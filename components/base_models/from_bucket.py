"""Copy a model from a bucket and verify it against one sha256."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from components.base_models.model_files import MODULES, is_taken, modules_in
from components.errors import ConfigurationError
from components.running.model_weights import check_bucket_files
from components.settings.base_models import BucketModel
from components.storage.atomic import content_key, link_or_copy, remove, sha256_of
from components.storage.buckets.bucket import Bucket, open_bucket


def bring(section: BucketModel, work: Path, folder: Path, role: str, *, with_modules: bool) -> None:
    """Copy a model into a folder; files that were complete before a kill are not fetched again.

    Args:
        section: Source of the model, from params.
        work: Where files are stored until the model is complete.
        folder: Where the copy goes.
        role: See `check_model_files`.
        with_modules: The model has sentence-transformers layout: copy the files of its modules too.

    Raises:
        ConfigurationError: the bucket does not exist, or holds no complete model, or not the pinned one.
        InfrastructureError: the store does not answer.
    """
    bucket = open_bucket(section.uri)
    check_bucket_files(bucket, role)
    download_folder = work / "brought" / content_key(section.model_dump())
    digests = {}
    for name in _names(bucket, with_modules=with_modules):
        path = download_folder / name
        if not path.is_file():
            bucket.download_file(name, path, None)
        digests[name] = sha256_of(path)
    if (actual := pin_of(digests)) != section.sha256:
        remove(download_folder)
        raise ConfigurationError(
            f"{section.uri} holds {len(digests)} files of a model, of sha256 {actual}; expected "
            f"{section.sha256}; restore the pinned files, or pin the new sha256 if the change was "
            "intended"
        )
    for name in digests:
        link_or_copy(download_folder / name, folder / name)
    remove(download_folder)


def pin_of(digests: dict[str, str]) -> str:
    """Return one sha256 for many files: that of the output of `sha256sum FILES | LC_ALL=C sort`.

    Args:
        digests: The sha256 of each file, by its path in the model's folder.
    """
    lines = sorted(f"{digest}  {name}\n" for name, digest in digests.items())
    return sha256("".join(lines).encode()).hexdigest()


def _names(bucket: Bucket, *, with_modules: bool) -> list[str]:
    folders = {""}
    if with_modules:
        content = bucket.read(MODULES)
        folders |= {module.folder for module in modules_in(content[0] if content else None, bucket.uri)}
    return [
        name
        for name in bucket.names()
        if not name.startswith("/") and _folder_of(name) in folders and is_taken(name)
    ]


def _folder_of(name: str) -> str:
    return name.rpartition("/")[0]
