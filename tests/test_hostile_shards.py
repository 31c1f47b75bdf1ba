"""Shards of our own that are not as download left them: recaption and audit stop, and make nothing."""

from __future__ import annotations

import io
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from components.audit.stage import run as audit
from components.download.stage import run as download
from components.errors import DataError
from components.recaption.stage import run as recaption
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.manifest import read_manifest, write_manifest
from components.storage.shards import TABLE_FOLDERS, read_shard, shards_of
from tests.download.test_stage import jpeg
from tests.test_bulk_mode import with_root

SHARDS = Path("artifacts/download/shards")
Damage = Callable[[Path], object]


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[random.Random(7).randrange(len(data))] ^= 4  # noqa: S311
    path.write_bytes(data)


DAMAGE: dict[str, tuple[Damage, str]] = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "00001.tar is damaged"),
    "cut between members": (
        lambda path: path.write_bytes(path.read_bytes()[: 512 * (path.stat().st_size // 1024)]),
        "00001.tar is damaged",
    ),
    "bit": (flipped, "00001.tar is damaged"),
    "zeros": (lambda path: path.write_bytes(bytes(path.stat().st_size)), "00001.tar is damaged"),
    "empty": (lambda path: path.write_bytes(b""), "00001.tar is damaged"),
    "page": (lambda path: path.write_text("<html>gone</html>"), "00001.tar is damaged"),
    "missing": (Path.unlink, r"manifest says 26 files, found 25 \(first difference shards/00001.tar"),
    "one too many": (
        lambda path: shutil.copy(path, path.with_name("00009.tar")),
        r"manifest says 26 files, found 27 \(first difference shards/00009.tar",
    ),
    "the other's": (lambda path: shutil.copy(path.with_name("00002.tar"), path), "00001.tar is damaged"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose data stages ran, but for the audit."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def params(smoke: Params, env: Environment, workspace: Path, made: Path) -> Params:
    """What the project in the current folder was made with."""
    params = with_root(smoke, None)
    if not (made / "artifacts").is_dir():
        download(params, env)
        recaption(params, env)
        shutil.copytree("artifacts", made / "artifacts")
    else:
        shutil.copytree(made / "artifacts", "artifacts")
    return params


def refused(stage: Callable[[Params, Environment], None], params: Params, message: str) -> None:
    """Check that a stage stops, and leaves what was made before as it was."""
    name = stage.__module__.split(".")[1]
    before = read_manifest(Path("artifacts") / name) if (Path("artifacts") / name).is_dir() else None
    with pytest.raises(DataError, match=message):
        stage(params, Environment(work_store=Path(".anew")))
    assert before == (read_manifest(Path("artifacts") / name) if before else None)


@pytest.mark.parametrize("what", DAMAGE)
def test_no_damaged_shard_is_read(params: Params, what: str) -> None:
    damage, message = DAMAGE[what]
    damage(SHARDS / "00001.tar")
    refused(recaption, params, message)
    refused(audit, params, message)


def repacked(path: Path, change: Callable[[tarfile.TarInfo], bool], *more: tuple[str, bytes]) -> None:
    """Write a shard anew without the members that `change` refuses, and list it as if it were right."""
    rows = {entry.path: entry.rows for entry in shards_of(SHARDS.parent) if entry.rows}
    with tarfile.open(path) as old:
        members = [(member, old.extractfile(member)) for member in old.getmembers()]
        contents = [(member.name, file.read()) for member, file in members if file and change(member)]
    with tarfile.open(path, "w") as new:
        for name, content in [*contents, *more]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    write_manifest(SHARDS.parent, rows)


def test_what_a_manifest_vouches_for_is_looked_at_too(params: Params) -> None:
    path = SHARDS / "00001.tar"
    whole, manifest = path.read_bytes(), (SHARDS.parent / "manifest.json").read_bytes()
    first, *_ = (pair.key for pair in read_shard(path))

    def changed(message: str, change: Callable[[tarfile.TarInfo], bool], *more: tuple[str, bytes]) -> None:
        repacked(path, change, *more)
        refused(audit, params, message)  # which reads the pixels; captions have tables of their own
        path.write_bytes(whole)
        (SHARDS.parent / "manifest.json").write_bytes(manifest)

    changed("damaged after 0 pairs .'txt'.", lambda member: member.name != f"{first}.txt")
    changed("damaged after 0 pairs .'jpg'.", lambda member: member.name != f"{first}.jpg")
    changed("holds 63 pairs, its manifest says 64", lambda member: not member.name.startswith(f"{first}."))
    changed(
        "holds 65 pairs, its manifest says 64", lambda member: True,
        ("x.jpg", jpeg(1)), ("x.json", b'{"split": "train", "captions": []}'), ("x.txt", b""),
    )  # fmt: skip


def test_two_shards_of_the_same_images_stop_the_audit(params: Params, env: Environment) -> None:
    rows = {entry.path: entry.rows for entry in shards_of(SHARDS.parent) if entry.rows}
    shutil.copy(SHARDS / "00002.tar", SHARDS / "00001.tar")
    for folder in TABLE_FOLDERS:
        shutil.copy(SHARDS.parent / folder / "00002.parquet", SHARDS.parent / folder / "00001.parquet")
    write_manifest(SHARDS.parent, rows)
    recaption(params, env)
    refused(audit, params, "64 keys occur more than once in download's shards, .* first; expected each once")
