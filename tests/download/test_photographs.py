"""The program that serves photographs, and the path from its url list through download, on other data too."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
from math import ceil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.download.stage import run
from components.settings.environment import Environment
from components.settings.params import Params, load_params
from components.settings.sources import CaptionColumn, UrlList
from components.sources.values import normal_key
from components.storage.atomic import read_json
from components.storage.manifest import read_manifest
from components.storage.shards import read_pairs, shards_of
from components.storage.side_tables import read_captions
from infra.serve_photographs import PORT, main, photograph_table, serving
from tests.conftest import ROOT

OUT = Path("artifacts/download")
SPLITS = {"train": "train", "val": "test"}


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def album(folder: Path, count: int = 12) -> Path:
    """Make a folder of pictures and a long table of their captions."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(count):
        name = f"images/pic {number}.jpg"
        Image.new("RGB", (80, 60), (number * 20, 90, 200)).save(folder / name)
        split = "val" if number % 4 == 3 else "extra" if number % 4 == 2 else "train"
        shared = {"key": f"Pic.{number}", "image": name, "split": split}
        rows.append(
            {**shared, "captions": [f"first {number}", f"second {number}"], "language": "en", "kind": "human"}
        )
        rows.append({**shared, "captions": [f"maschinell {number}"], "language": "de", "kind": "machine"})
        if number % 2:
            rows.append({**shared, "captions": [f"Bild {number}"], "language": "de", "kind": "human"})
    pq.write_table(pa.Table.from_pylist(rows), folder / "captions.parquet")
    return folder / "captions.parquet"


def params_for(smoke: Params, port: int, languages: list[str], limit: int | None = None) -> Params:
    source = UrlList(
        kind="url_list", name="photographs", path="photographs.parquet", sha256=None, key_column="key",
        split_column="split", split=None, limit=limit, url_column="url", columns=None, sha256_column=None,
        weight=None,
        captions=[CaptionColumn(column=one, name=f"said_{one}", language=one) for one in languages],
    )  # fmt: skip
    fetch = smoke.download.fetch.model_copy(
        update={"allowed_ports": [port], "allowed_private_hosts": ["127.0.0.1"]}
    )
    images = smoke.download.images.model_copy(update={"size": 96})
    update: dict[str, Any] = {"sources": [source], "fetch": fetch, "images": images}
    return smoke.model_copy(update={"download": smoke.download.model_copy(update=update)})


def test_the_table_holds_people_s_captions_by_language_and_a_fixed_part_held_out(tmp_path: Path) -> None:
    table = photograph_table(album(tmp_path), "human", SPLITS, validation_rows=2, port=1234)
    assert table.column_names == ["key", "url", "split", "de", "en"]
    rows = {row["key"]: row for row in table.to_pylist()}
    assert len(rows) == 9  # those of the split `extra` are left out
    assert sorted(row["split"] for row in rows.values()) == ["test"] * 3 + ["train"] * 4 + ["validation"] * 2
    assert rows["Pic.1"]["en"] == ["first 1", "second 1"]
    assert (rows["Pic.0"]["de"], rows["Pic.1"]["de"]) == (None, ["Bild 1"])
    assert rows["Pic.0"]["url"] == "http://127.0.0.1:1234/images/pic%200.jpg"
    again = photograph_table(tmp_path / "captions.parquet", "human", SPLITS, validation_rows=2, port=1234)
    assert again.equals(table)


def test_from_the_folder_to_shards(
    workspace: Path, smoke: Params, env: Environment, port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    captions = album(workspace / "data")
    texts = workspace / "texts.parquet"
    pq.write_table(pa.table({"key": ["t"], "en": [["no image"]]}), texts)
    arguments = ["--captions", str(captions), "--images", str(captions.parent / "images")]
    arguments += ["--texts", str(texts), "--out", "inputs/demo"]
    arguments += ["--port", str(port), "--validation-rows", "2"]
    fetch = f"from urllib.request import urlopen as u; b='http://127.0.0.1:{port}/'; " + (
        "print(len(u(b + 'images/pic%200.jpg').read()) > 100, len(u(b + 'pic%201.jpg').read()) > 100); "
        "u(b + 'captions.parquet')"
    )
    assert main([*arguments, "--", sys.executable, "-c", fetch]) == 1  # only photographs are served
    assert "True True" in capfd.readouterr().out
    assert main([*arguments, "--", sys.executable, "-c", "raise SystemExit(7)"]) == 7
    before = (Path("inputs/demo") / "photographs.parquet").read_bytes()
    with serving([captions.parent], port):
        assert main([*arguments, "--", "true"]) == 4  # the port is taken
        assert f"port {port}" in capfd.readouterr().err
        run(params_for(smoke, port, ["en", "de"]), env)
    assert (Path("inputs/demo") / "photographs.parquet").read_bytes() == before
    found = [pair for shard in shards_of(OUT) for pair in read_pairs(OUT, shard, Path(".work"))]
    assert [pair.key for pair in found] == [
        normal_key(f"Pic.{number}") for number in (0, 1, 3, 4, 5, 7, 8, 9, 11)
    ]
    assert [(one["column"], one["number"], one["text"]) for one in found[1].metadata["captions"]] == [
        ("said_en", 0, "first 1"), ("said_en", 1, "second 1"), ("said_de", 0, "Bild 1"),
    ]  # fmt: skip
    assert {one["column"] for one in found[0].metadata["captions"]} == {"said_en"}
    assert read_json(Path("metrics/download.json"))["images"]["splits"] == {
        "train": 4,
        "validation": 2,
        "test": 3,
    }


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = album(tmp_path / "data")
    common = ["--out", str(tmp_path / "out"), "--images", str(captions.parent / "images")]
    assert main(["--captions", str(tmp_path / "none.parquet"), *common]) == 2
    assert "none.parquet not found" in capsys.readouterr().err
    assert main(["--captions", str(captions), *common, "--splits", "dev=train"]) == 2
    assert "its splits are extra, train, val: use --splits" in capsys.readouterr().err
    pq.write_table(pa.table({"key": ["a"], "file": ["b"]}), tmp_path / "odd.parquet")
    assert main(["--captions", str(tmp_path / "odd.parquet"), *common]) == 2
    assert "lacks image, captions, language, split; it has key, file" in capsys.readouterr().err
    assert main(["--captions", str(captions), *common[:2], "--images", str(tmp_path / "none")]) == 2
    assert "fix --images" in capsys.readouterr().err


def test_a_command_that_is_told_to_stop_is_stopped(tmp_path: Path, port: int) -> None:
    captions = album(tmp_path / "data", count=4)
    program = subprocess.Popen(
        [sys.executable, ROOT / "infra" / "serve_photographs.py", "--captions", captions, "--images",
         captions.parent, "--out", tmp_path / "out", "--port", str(port), "--", sys.executable, "-c",
         "import time; print('here', flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert program.stdout
    assert program.stdout.readline() == "here\n"
    program.terminate()
    assert program.wait(30) == 128 + 15


def test_other_photographs_and_captions_go_the_same_way(
    workspace: Path, smoke: Params, env: Environment, port: int, shared: Path
) -> None:
    data = shared / "data" / "coco_mini"
    table = photograph_table(
        data / "captions.parquet", "human", {"train2017": "train", "val2017": "test"}, 6, port
    )
    pq.write_table(table, "inputs/demo/photographs.parquet")
    with serving([data], port):
        run(params_for(smoke, port, ["en"]), env)
    found = [pair for shard in shards_of(OUT) for pair in read_pairs(OUT, shard, Path(".work"))]
    metrics = read_json(Path("metrics/download.json"))
    assert metrics["images"]["splits"] == {"train": 40, "validation": 6, "test": 44}
    assert len(found) == 90
    assert all(len(pair.metadata["captions"]) == 5 for pair in found)
    for pair in found[::30]:
        image = Image.open(io.BytesIO(pair.jpeg))
        assert max(image.size) == 96
        assert pair.metadata["original_width"] > 300
        assert (
            abs(
                image.width / image.height
                - pair.metadata["original_width"] / pair.metadata["original_height"]
            )
            < 0.02
        )


@pytest.mark.parametrize(
    ("name", "splits", "limit"),
    [("flickr8k", SPLITS, 300), ("coco_mini", {"train2017": "train", "val2017": "test"}, 90)],
)
def test_two_runs_over_real_photographs_give_equal_bytes(
    workspace: Path, smoke: Params, port: int, shared: Path, monkeypatch: pytest.MonkeyPatch,
    name: str, splits: dict[str, str], limit: int,
) -> None:  # fmt: skip
    data = shared / "data" / name
    table = photograph_table(data / "captions.parquet", "human", splits, 6, port)
    found = []
    with serving([data], port):
        for processes in (1, 2):
            folder = workspace / str(processes)
            (folder / "inputs" / "demo").mkdir(parents=True)
            monkeypatch.chdir(folder)
            pq.write_table(table, "inputs/demo/photographs.parquet")
            run(params_for(smoke, port, ["en"], limit), Environment(processes=processes))
            metrics = read_json(Path("metrics/download.json"))["images"]
            assert (metrics["rows_in"], metrics["rows_out"], metrics["rejected"]) == (limit, limit, {})
            found.append((read_manifest(OUT), metrics))
    assert found[0] == found[1]
    assert len([entry for entry in found[0][0] if entry.path.endswith(".tar")]) == ceil(limit / 64)


def test_the_preset_for_photographs_reads_what_the_program_writes(
    workspace: Path, env: Environment, port: int, tmp_path: Path
) -> None:
    preset = load_params(ROOT / "presets" / "flickr8k.yaml")
    assert PORT in preset.download.fetch.allowed_ports
    inputs = Path("inputs") / preset.download.inputs
    source = preset.download.sources[0]
    languages = [one.column for one in source.captions] if isinstance(source, UrlList) else []
    captions = album(workspace / "data")
    rows = pq.read_table(captions).to_pylist()
    rows += [{**one, "language": "zh"} for one in rows if one["language"] == "en"]
    pq.write_table(pa.Table.from_pylist(rows), captions)
    table = photograph_table(captions, "human", SPLITS, 2, port)
    assert set(languages) <= set(table.column_names)
    inputs.mkdir()
    pq.write_table(table, inputs / "photographs.parquet")
    pq.write_table(pa.table({"key": ["t"], "en": [["one"]], "de": [["eins"]]}), inputs / "texts.parquet")
    fetch = preset.download.fetch.model_copy(update={"allowed_ports": [port]})
    with serving([captions.parent], port):
        run(preset.model_copy(update={"download": preset.download.model_copy(update={"fetch": fetch})}), env)
    metrics = read_json(Path("metrics/download.json"))
    assert (metrics["images"]["rows_out"], metrics["texts"]["rows_out"], metrics["rejected"]) == (9, 1, {})
    assert {one.column for one in read_captions(OUT / "texts" / "00000.parquet")} == {"en", "de"}
