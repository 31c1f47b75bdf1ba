"""Filters drop what params ask for and nothing else, each image for one reason."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from components.audit.curation.dropped import Drop
from components.audit.curation.score_table import ScoreTable, read_scored
from components.audit.curation.select import keys_of, open_caption_vectors
from components.audit.images import AuditImages
from components.errors import ConfigurationError, DataError
from components.settings.audit import Curation, NearCaptionFilter
from components.settings.params import Params
from components.storage.buckets.bucket import Bucket
from components.storage.bulk import object_name, open_data_root
from components.storage.embeddings import EMBEDDED_CAPTIONS, write_embeddings
from components.storage.manifest import read_manifest, write_manifest
from components.storage.scores import EMBEDDED_IMAGES, SCORES, write_image_embeddings
from components.storage.side_tables import write_table
from tests.audit.conftest import images_of
from tests.audit.curated import KEYS, NOTHING, SPLITS, curated

NAN = float("nan")
SAFE = {"name": "unsafe", "path": "safe.safetensors", "keeps": "at_most", "limit": 0.5, "splits": ["train"]}


def by_similarity(**changes: Any) -> dict[str, Any]:
    settings = {"columns": ["alt"], "min_similarity": None, "best_share": None, **changes}
    return {**NOTHING, "similarity": settings}


def scored(**columns: list[float]) -> ScoreTable:
    return ScoreTable({name: np.array(values, np.float32) for name, values in columns.items()}, {})


@pytest.fixture
def embedded(workspace: Path) -> Path:
    """Embeddings 0 to 90 degrees apart: e and d of train are near, as are v and t."""
    firsts = [1.0, 0.99, 0.55, 0.3, 0.0, 1.0, 1.0]
    vectors = torch.tensor([[first, (1 - first**2) ** 0.5] for first in firsts])
    lines = [{"key": key, "split": SPLITS[row], "row": row} for row, key in enumerate(KEYS)]
    folder = workspace / "artifacts" / "recaption"
    table = pa.Table.from_pylist(lines, EMBEDDED_IMAGES)
    write_image_embeddings(folder / "image_embeddings", "00000", {"clip": "x"}, table, vectors)
    write_manifest(folder)
    head = {"weight": torch.tensor([[1.0, 0.0]]), "bias": torch.tensor([-0.1])}
    save_file(head, workspace / "inputs" / "safe.safetensors")
    return folder


def test_nothing_is_dropped_unless_params_ask(workspace: Path) -> None:
    assert curated(NOTHING) == {}
    assert curated(NOTHING, leaked={0: 6}) == {"e": Drop("leaked", None, "t")}


def test_a_limit_of_similarity_keeps_what_is_at_it(workspace: Path) -> None:
    found = curated(by_similarity(min_similarity=0.25), scored(alt=[0.25, 0.125, 0.5, -0.5, NAN, -1.0, -1.0]))
    assert found == {
        "d": Drop("similarity", 0.125, None),
        "b": Drop("similarity", -0.5, None),
        "a": Drop("no_similarity", None, None),  # cannot be shown to be like its captions
    }


@pytest.mark.parametrize(
    ("share", "kept"), [(1.0, "abcde"), (0.6, "abe"), (0.4, "ae"), (0.2, "e"), (0.01, "")]
)
def test_the_best_share_breaks_ties_by_key(workspace: Path, share: float, kept: str) -> None:
    found = curated(by_similarity(best_share=share), scored(alt=[0.9, 0.1, 0.5, 0.5, 0.5, 0.0, 0.0]))
    assert {"a", "b", "c", "d", "e"} - found.keys() == set(kept)
    assert {drop.reason for drop in found.values()} <= {"similarity"}


def test_an_image_counts_with_its_best_column(workspace: Path) -> None:
    settings = by_similarity(columns=["alt", "short"], min_similarity=0.5)
    found = curated(
        settings, scored(alt=[0.6, 0.1, NAN, NAN, 0.1, 0, 0], short=[NAN, 0.7, 0.5, NAN, 0.2, 0, 0])
    )
    assert {key: drop.reason for key, drop in found.items()} == {"b": "no_similarity", "a": "similarity"}


def test_similarity_that_nobody_has_stops(workspace: Path) -> None:
    with pytest.raises(
        ConfigurationError, match="names column alt, which has no similarity; there are short"
    ):
        curated(by_similarity(min_similarity=0.5), scored(short=[0.5] * 7))
    with pytest.raises(ConfigurationError, match="there are none"):
        curated(by_similarity(min_similarity=0.5))
    with pytest.raises(DataError, match="none of 5 train images has a similarity of columns alt"):
        curated(by_similarity(best_share=0.5), scored(alt=[NAN] * 5 + [0.5, 0.5]))


def test_heads_then_similarity_then_near_images(embedded: Path) -> None:
    """A dropped image is no image that others are near to, and one that leaks has that reason alone."""
    near = {"near_images": {"min_cosine": 0.98, "max_rows": 5}}
    found = curated({**NOTHING, **near})
    assert {key: (drop.reason, drop.like) for key, drop in found.items()} == {"e": ("near_image", "d")}
    assert found["e"].value == pytest.approx(0.99, abs=1e-3)
    head = {"heads": [SAFE]}
    found = curated({**NOTHING, **head})
    assert {key: drop.reason for key, drop in found.items()} == {"e": "unsafe", "d": "unsafe"}
    assert found["e"].value == pytest.approx(0.9, abs=1e-3)
    settings = {**by_similarity(min_similarity=0.5), **near}
    found = curated(settings, scored(alt=[0.9, 0.1, 0.9, 0.9, 0.9, 0, 0]))
    assert {key: drop.reason for key, drop in found.items()} == {"d": "similarity"}  # e is alone then
    found = curated({**NOTHING, **head, **near}, leaked={0: 6})
    assert {key: drop.reason for key, drop in found.items()} == {"e": "leaked", "d": "unsafe"}


def test_more_near_images_than_params_allow_are_refused_before_days_of_work(embedded: Path) -> None:
    near = {"near_images": {"min_cosine": 0.98, "max_rows": 4}}
    with pytest.raises(
        ConfigurationError, match=r"would compare 5 train images.*1\.2e\+01 pairs;.*max_rows allows 4 images"
    ):
        curated({**NOTHING, **near})
    assert curated({**NOTHING, **near}, leaked={4: 6}).keys() == {"a", "e"}  # four are left


def test_a_head_looks_at_its_splits(embedded: Path) -> None:
    aesthetic = {**SAFE, "name": "ugly", "keeps": "at_least", "limit": 0.0, "splits": ["validation", "test"]}
    assert curated({**NOTHING, "heads": [aesthetic]}) == {}
    aesthetic["limit"] = 0.95
    assert curated({**NOTHING, "heads": [aesthetic]}).keys() == {"v", "t"}


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.unlink(), "safe.safetensors not found"),
        (lambda path: path.write_bytes(b"\x80\x04."), "is no safetensors file"),
        (
            lambda path: save_file({"weight": torch.zeros(1, 768), "bias": torch.zeros(1)}, path),
            r"weight \(1, 768\) and bias \(1,\); expected \(1, 2\)",
        ),
    ],
)
def test_a_head_that_does_not_fit_stops(embedded: Path, write: Any, message: str) -> None:
    write(Path("inputs/safe.safetensors"))
    with pytest.raises(ConfigurationError, match=f"audit.curation.heads unsafe: .*{message}"):
        curated({**NOTHING, "heads": [SAFE]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"similarity": {"columns": ["alt"], "min_similarity": None, "best_share": None}}, "give either"),
        ({"similarity": {"columns": ["alt"], "min_similarity": 0.1, "best_share": 0.5}}, "give either"),
        ({"heads": [SAFE, SAFE]}, "expected names that differ"),
        ({"heads": [{**SAFE, "name": "leaked"}]}, "none a reason"),
        ({"heads": [{**SAFE, "path": "../head.safetensors"}]}, "relative path without"),
        ({"near_images": {"min_cosine": 1.5, "max_rows": 5}}, "less than or equal to 1"),
    ],
)
def test_params_that_contradict_themselves_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Curation.model_validate({**NOTHING, **changes})


def test_curation_needs_scores(smoke: Params) -> None:
    tree = smoke.model_dump()
    tree["recaption"]["scores"] = None
    Params.model_validate(tree)
    tree["audit"]["curation"]["near_images"] = {"min_cosine": 0.9, "max_rows": 5}
    with pytest.raises(ValidationError, match=r"audit\.curation of images needs recaption\.scores"):
        Params.model_validate(tree)


def line(key: str, column: str, number: int, similarity: float | None) -> dict[str, Any]:
    return {"key": key, "column": column, "number": number, "similarity": similarity}


def write_scores(folder: Path, *shards: list[dict[str, Any]]) -> None:
    for number, lines in enumerate(shards):
        write_table(folder / "scores" / f"{number:05d}.parquet", pa.Table.from_pylist(lines, SCORES))
    write_manifest(folder)


def test_scores_are_joined_by_key_and_an_image_counts_with_its_best_caption(tmp_path: Path) -> None:
    write_scores(
        tmp_path,
        [line("b", "alt", 0, 0.1), line("b", "alt", 1, 0.3), line("a", "alt", 0, 0.2)],
        [],  # a shard without captions
        [line("c", "short", 0, None), line("d", "short", 0, NAN)],
    )
    keys = ["d", "c", "b", "a"]
    images = AuditImages(
        pa.chunked_array([["b", "a"], [], ["d", "c"]], pa.string()),
        images_of(keys, ["train"] * 4).splits,
        pa.table({}),
        ["00000", "00001", "00002"],
    )
    found = read_scored(tmp_path, images)
    assert found.similarity.keys() == {"alt"}
    assert np.isnan(found.similarity["alt"]).tolist() == [False, False, True, True]
    assert found.similarity["alt"][:2].tolist() == pytest.approx([0.3, 0.2])
    assert found.agreement == {}


def test_no_table_is_no_score(tmp_path: Path) -> None:
    write_manifest(tmp_path)
    assert read_scored(tmp_path, images_of(["a"], ["train"])) == ScoreTable({}, {})


def test_scores_of_other_images_are_refused(tmp_path: Path) -> None:
    write_scores(tmp_path, [line("a", "alt", 0, 0.1), line("z", "alt", 0, 0.1)])
    with pytest.raises(DataError, match="scores z, which is no image of that shard of download"):
        read_scored(tmp_path, images_of(["a"], ["train"]))


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
    write_manifest(whole, known=[replace(entry, uri=f"{root.uri}/{object_name(entry)}") for entry in entries])
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
