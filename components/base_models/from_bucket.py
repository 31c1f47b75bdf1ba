"""Copy a model from a bucket and verify it against one hash."""

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
    """Bring a model into a folder; files that came before a kill are not asked for again.

    Args:
        section: Of params.
        work: Where files lie until all are there.
        folder: Where to.
        role: See `check_model_files`.
        with_modules: It is in sentence-transformers layout: files of its parts are brought as well.

    Raises:
        ConfigurationError: there is no such bucket, it holds no whole model, or another than the pinned one.
        InfrastructureError: the store does not answer.
    """
    bucket = open_bucket(section.uri)
    check_bucket_files(bucket, role)
    brought = work / "brought" / content_key(section.model_dump())
    digests = {}
    for name in _names(bucket, with_modules=with_modules):
        path = brought / name
        if not path.is_file():
            bucket.download_file(name, path, None)
        digests[name] = sha256_of(path)
    if (found := pin_of(digests)) != section.sha256:
        remove(brought)
        raise ConfigurationError(
            f"{section.uri} holds {len(digests)} files of a model, of sha256 {found}; expected "
            f"{section.sha256}: put the pinned files there again, or pin the other sha256 if they were "
            "changed on purpose"
        )
    for name in digests:
        link_or_copy(brought / name, folder / name)
    remove(brought)


def pin_of(digests: dict[str, str]) -> str:
    """Return the one sha256 for many files: of what `sha256sum FILES | LC_ALL=C sort` prints.

    Args:
        digests: The sha256 of each file, by its name below the model's folder.
    """
    lines = sorted(f"{digest}  {name}\n" for name, digest in digests.items())
    return sha256("".join(lines).encode()).hexdigest()


def _names(bucket: Bucket, *, with_modules: bool) -> list[str]:
    folders = {""}
    if with_modules:
        found = bucket.read(MODULES)
        folders |= {one.folder for one in modules_in(found[0] if found else None, bucket.uri)}
    return [
        name
        for name in bucket.names()
        if not name.startswith("/") and _folder_of(name) in folders and is_taken(name)
    ]


def _folder_of(name: str) -> str:
    return name.rpartition("/")[0]
