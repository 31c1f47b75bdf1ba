"""A full disk: said with exit code 4, by every way of writing, and the last good state stays."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from components.running import entry
from components.storage.atomic import new_file, read_json, reserve
from components.storage.checkpoint import Checkpoints
from components.storage.shards import Pair, write_shard
from components.storage.side_tables import Caption, write_captions

DISK_BYTES = 200 * 1024
NOISE = np.random.default_rng(0).bytes(2 * DISK_BYTES)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 kB; the test skips where the user may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def _shard(disk: Path) -> None:
    write_shard(disk / "00000.tar", [Pair("a", NOISE, "a caption")])


def _checkpoint(disk: Path) -> None:
    Checkpoints(disk / "checkpoints", {}).save(1, {"weight": torch.zeros(DISK_BYTES)}, {})


def _table(disk: Path) -> None:
    write_captions(disk / "00000.parquet", [Caption("a", "train", "alt", "en", 0, NOISE.hex(), "x")])


def _mapped(disk: Path) -> None:
    with new_file(disk / "images.npy") as part:
        np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(2 * DISK_BYTES,))
        reserve(part)


@pytest.mark.parametrize("write", [_shard, _checkpoint, _table, _mapped])
def test_every_way_of_writing_ends_with_4_and_leaves_nothing(
    workspace: Path,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    write: Callable[[Path], None],
) -> None:
    monkeypatch.setattr("components.download.stage.run", lambda _params, _env: write(small_disk))
    assert entry.start("download") == 4
    assert "disk full" in str(read_json(workspace / ".work" / "download" / "exit.json")["message"])
    assert len(capfd.readouterr().err.strip().splitlines()) == 1
    assert not [path for path in small_disk.rglob("*") if path.is_file() and path.name != "identity.json"]


def test_a_stage_says_it_and_keeps_the_last_good_output(
    workspace: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert entry.start("download") == 0
    good = {path: path.read_bytes() for path in (workspace / "artifacts").rglob("*") if path.is_file()}
    params = workspace / "params.yaml"
    params.write_text(params.read_text().replace("seed: 7", "seed: 8"))
    monkeypatch.setenv("LLM2CLIP_WORK_STORE", str(small_disk))
    monkeypatch.setattr(entry, "MIN_FREE_BYTES", 0)
    capfd.readouterr()
    assert entry.start("download") == 4
    said = [line for line in capfd.readouterr().err.splitlines() if " of " not in line]
    assert len(said) == 1 and "disk full" in said[0] and "nothing was damaged" in said[0]
    assert {p: p.read_bytes() for p in (workspace / "artifacts").rglob("*") if p.is_file()} == good
    assert read_json(small_disk / "download" / "exit.json")["exit_code"] == 4
