"""Fingerprints by hand, and the same ones whatever makes them: one process or several, killed or not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from multiprocessing import Pipe, RawValue
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.audit.near_duplicates import fingerprints
from components.audit.near_duplicates.fingerprints import (
    ShardFingerprints,
    difference_hash,
    fingerprint,
    read_fingerprints,
    results_of,
    thumbnail,
)
from components.errors import DataError
from components.running.jobs import ProgressReporter
from components.storage.layout import Layout
from components.storage.manifest import read_manifest, write_manifest
from components.storage.shards import Pair, shards_of
from components.storage.side_tables import Caption
from tests.audit.conftest import jpeg
from tests.conftest import ROOT
from tests.pairs import put_in_use, write_pairs

Rows = list[tuple[Pair, list[Caption]]]


def test_hash_and_thumbnail_by_hand() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 144, dtype=np.uint8), (144, 1)))
    assert difference_hash(ramp) == 2**64 - 1
    assert difference_hash(ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == 0
    flat = Image.new("RGB", (40, 20), (10, 20, 30))
    assert thumbnail(flat).reshape(-1, 3).tolist() == [[10, 20, 30]] * 256


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_the_fast_decoder_sees_what_pillow_sees(mode: str, subsampling: int) -> None:
    noise = np.random.default_rng(7).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(noise).convert(mode).save(stream, "JPEG", quality=80, subsampling=subsampling)
    found, expected = fingerprint(stream.getvalue(), "k"), Image.open(stream)
    assert (found.width, found.height, found.bytes) == (131, 97, len(stream.getvalue()))
    assert found.difference_hash == difference_hash(expected)
    assert (found.thumbnail == thumbnail(expected)).all()


def test_an_image_that_cannot_be_decoded_is_named() -> None:
    good = jpeg(Image.new("RGB", (32, 32)))
    with pytest.raises(DataError, match="image broken cannot be decoded"):
        fingerprint(good[: len(good) // 2], "broken")
    stream = BytesIO()
    Image.new("RGB", (32, 32)).save(stream, "PNG")
    with pytest.raises(DataError, match="image png cannot be decoded"):
        fingerprint(stream.getvalue(), "png")


def test_equal_whatever_the_number_of_processes(
    make_data: Callable[..., Layout], scene_pairs: Rows, tmp_path: Path
) -> None:
    layout = make_data(scene_pairs)
    download = layout.artifact("download")
    shards = shards_of(download)
    found = [read_fingerprints(download, shards, tmp_path / str(number), number) for number in (1, 3)]
    assert len(shards) == 3
    assert found[0].images.keys.to_pylist() == [pair.key for pair, _ in scene_pairs]
    rows = np.arange(len(scene_pairs))
    for name in ("digests", "hashes"):
        assert (getattr(found[0], name) == getattr(found[1], name)).all()
    assert (found[0].thumbnails.take(rows) == found[1].thumbnails.take(rows)).all()
    pieces = [
        {path.name: read_manifest(path) for path in results_of(tmp_path / number).iterdir()}
        for number in ("1", "3")
    ]
    assert pieces[0] == pieces[1]


def test_only_new_pictures_are_decoded(
    make_data: Callable[..., Layout], scene_pairs: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = make_data(scene_pairs[:32])
    download = layout.artifact("download")
    work = tmp_path / "work"
    first = read_fingerprints(download, shards_of(download), work, 1)
    decoded: list[str] = []

    def counting(data: bytes, key: str) -> fingerprints.Fingerprint:
        decoded.append(key)
        return fingerprint(data, key)

    def inline(jobs: dict[str, ShardFingerprints], *_others: object) -> dict[str, Path]:
        ours, theirs = Pipe()
        with ours, theirs:
            return {key: job(ProgressReporter(theirs, RawValue("q", -1))) for key, job in jobs.items()}

    monkeypatch.setattr(fingerprints, "fingerprint", counting)
    monkeypatch.setattr(fingerprints, "pieces_by_content", inline)
    pairs = [pair for pair, _ in scene_pairs]
    moved = replace(pairs[3], key="another_key")
    rows = dict.fromkeys(["shards/00000.tar", "shards/00001.tar"], 16)
    put_in_use(download / "shards" / "00000.tar", [*pairs[:3], *pairs[5:16]])
    new = "shards/00002.tar"
    write_manifest(download, {**rows, new: write_pairs(download / new, [moved, *pairs[32:36]])})
    second = read_fingerprints(download, shards_of(download), work, 1)
    assert decoded == [pair.key for pair in pairs[32:36]]
    expected = [*range(3), *range(5, 32), 3]
    assert second.images.keys.to_pylist()[: len(expected)] == [
        *(pairs[row].key for row in expected[:-1]),
        "another_key",
    ]
    for name in ("digests", "hashes"):
        assert (getattr(second, name)[: len(expected)] == getattr(first, name)[expected]).all()
    rows_of_second = np.arange(len(expected))
    assert (second.thumbnails.take(rows_of_second) == first.thumbnails.take(np.array(expected))).all()
    blocks = np.concatenate(list(second.thumbnails.blocks()))
    assert (blocks == second.thumbnails.take(np.arange(len(second.images)))).all()


def test_an_image_that_ends_its_process_is_named_and_not_tried_again(
    make_data: Callable[..., Layout], scene_pairs: Rows, tmp_path: Path
) -> None:
    layout = make_data(scene_pairs)
    download = layout.artifact("download")
    job = ShardFingerprints(download, shards_of(download)[0], tmp_path).skip_item(5)
    ours, theirs = Pipe()
    with ours, theirs, pytest.raises(DataError, match=f"image {scene_pairs[5][0].key} cannot be decoded .it"):
        job(ProgressReporter(theirs, RawValue("q", -1)))
    assert not list(results_of(tmp_path).iterdir())


def test_no_job_of_audit_imports_torch() -> None:
    """Each of its processes would pay a second and 200 MB for it."""
    modules = ["audit.near_duplicates.fingerprints", "audit.near_duplicates.similar", "audit.caption_figures"]
    imports = "; ".join(f"import components.{module}" for module in [*modules, "storage.shards"])
    code = f"import sys; {imports}; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
