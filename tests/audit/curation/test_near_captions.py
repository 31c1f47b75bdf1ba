"""Images whose captions an earlier run's encoder found nearly the same: the first by key stays."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from components.audit.curation.dropped import Drop
from components.audit.curation.near_captions import keys_of, open_caption_vectors
from components.errors import ConfigurationError, DataError
from components.settings.audit import NearCaptionFilter
from components.settings.params import Params
from components.storage.buckets.bucket import Bucket
from components.storage.bulk import object_name, open_data_root
from components.storage.embeddings import EMBEDDED_CAPTIONS, write_embeddings
from components.storage.manifest import read_manifest, write_manifest
from tests.audit.curated import NOTHING, curated

WORK = Path(".work/audit")
SETTINGS: dict[str, Any] = {
    "embeddings": "earlier/tuned", "column": "alt", "min_cosine": 0.98, "max_rows": 5,
}  # fmt: skip


@pytest.fixture
def earlier(workspace: Path) -> Path:
    """Captions 0 to 90 degrees apart, in two shards: those of e and d are near, b has none, c has two."""
    degrees = {("e", 0): 0.0, ("d", 0): 5.0, ("c", 1): 5.0, ("c", 0): 60.0, ("a", 0): 80.0, ("v", 0): 0.0}
    folder = workspace / "inputs" / "earlier" / "tuned" / "alt"
    for shard, chosen in {"00000": "ec", "00001": "dav"}.items():
        angles = {caption: angle for caption, angle in degrees.items() if caption[0] in chosen}
        lines = [
            {"key": key, "split": "train", "column": "alt", "language": "en", "number": number, "row": row}
            for row, (key, number) in enumerate(angles)
        ]
        radians = torch.deg2rad(torch.tensor(list(angles.values())))
        vectors = 3 * torch.stack([radians.cos(), radians.sin()], dim=1)  # un-normalised, as the cache is
        write_embeddings(
            folder, shard, {"llm": "tuned"}, pa.Table.from_pylist(lines, EMBEDDED_CAPTIONS), vectors
        )
    write_manifest(workspace / "inputs" / "earlier")
    return folder


def without_near(leaked: dict[int, int] | None = None, **changes: Any) -> dict[str, Drop]:
    return curated({**NOTHING, "near_captions": {**SETTINGS, **changes}}, leaked=leaked)


def test_of_near_captions_the_first_by_key_stays(earlier: Path) -> None:
    found = without_near()
    assert found.keys() == {"e"}
    assert (found["e"].reason, found["e"].like) == ("near_caption", "d")
    assert found["e"].value == pytest.approx(0.9962, abs=1e-3)  # cosine of five degrees
    assert without_near(min_cosine=0.999) == {}
    assert without_near(leaked={1: 6}).keys() == {"d"}  # what leaks is near to nobody
    # a and c are 20 degrees apart, by c's first caption
    assert without_near(min_cosine=0.85).keys() == {"c", "e"}


def test_an_image_that_the_earlier_run_did_not_have_is_not_compared(earlier: Path) -> None:
    assert keys_of(open_caption_vectors(NearCaptionFilter(**SETTINGS), Path("inputs"), WORK)) == {*"ecdav"}
    with pytest.raises(ConfigurationError, match=r"near_captions would compare 4 train images .* allows 3"):
        without_near(max_rows=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embeddings": "earlier/none/tuned"}, "holds no manifest.json; expected an earlier run's"),
        ({"embeddings": "earlier/base"}, "has no embeddings of column alt"),
        ({"column": "dense"}, "has no embeddings of column dense"),
    ],
)
def test_what_is_not_there_is_named(earlier: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"audit.curation.near_captions: .*{message}"):
        without_near(**changes)


def test_a_damaged_cache_is_not_used(earlier: Path) -> None:
    path = earlier / "00001.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(bytes(damaged))
    with pytest.raises(DataError, match="00001.safetensors"):
        without_near()


def put_in_bucket(earlier: Path, uri: str) -> Bucket:
    """Have an earlier run's vectors where bulk mode puts them."""
    root, whole = open_data_root(uri), earlier.parents[1]
    entries = [entry for entry in read_manifest(whole) if entry.is_vectors]
    for entry in entries:
        root.upload_file(whole / entry.uri, object_name(entry), entry.sha256)
        (whole / entry.uri).unlink()
    write_manifest(
        whole, remote=[replace(entry, uri=f"{root.uri}/{object_name(entry)}") for entry in entries]
    )
    return root


def test_vectors_may_be_in_a_bucket(earlier: Path, s3: str) -> None:
    of_files = without_near(min_cosine=0.85)
    root = put_in_bucket(earlier, f"s3://{s3}/run")
    assert not list(earlier.glob("*.safetensors"))
    shutil.rmtree(WORK)
    assert without_near(min_cosine=0.85) == of_files
    assert not [path for path in WORK.rglob("*") if path.suffix == ".safetensors"]  # nothing stays here
    lost = next(entry for entry in read_manifest(earlier.parents[1]) if entry.is_remote)
    root.delete(object_name(lost))
    shutil.rmtree(WORK)
    with pytest.raises(DataError, match=r"tuned\.alt\.00000-.*restore it from a copy"):
        without_near()


def test_it_needs_no_scores(smoke: Params) -> None:
    tree = smoke.model_dump()
    tree["recaption"]["scores"] = None
    tree["audit"]["curation"]["near_captions"] = SETTINGS
    Params.model_validate(tree)
