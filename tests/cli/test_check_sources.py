"""What the first rows of sources lack of what params say of them, before anything runs."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.cli import check_sources
from components.cli.caption_groups import Column, Group
from components.cli.check_sources import Looked, look_at_sources
from components.settings.params import Params
from components.settings.sources import CaptionColumn, Folder, Source
from tests.sources.reading import COLUMNS, columns, texts, urls
from tests.sources.test_annotations import annotated, coco, karpathy
from tests.sources.test_sample_files import sidecars
from tests.sources.test_shard_rows import shards

ENGLISH = frozenset({"en"})


def pictures(**changes: Any) -> Folder:
    fields = texts("list.csv").model_dump() | {
        "kind": "folder", "captions": COLUMNS, "weight": None, "images": "images", "image_column": "file",
    }  # fmt: skip
    return Folder(**{**fields, **changes})


def look(smoke: Params, folder: Path, *sources: Source) -> Looked:
    download = smoke.download.model_copy(update={"sources": list(sources)})
    return look_at_sources(smoke.model_copy(update={"download": download}), folder)


def told(smoke: Params, folder: Path, *sources: Source) -> list[str]:
    """Return the problems, each with the keys of its param below `download.sources`."""
    problems = look(smoke, folder, *sources).problems
    return [
        f"{'.'.join(map(str, one.location[2:]))}: {one.text}".replace(f"{folder}/", "") for one in problems
    ]


def listed(name: str) -> Callable[[Path], None]:
    """Write a table of two columns, url and caption, of the kind that its name says."""

    def write(folder: Path) -> None:
        rows = [{"url": f"http://a/{number}", "caption": f"caption {number}"} for number in range(3)]
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(rows), folder / name)
        elif name.endswith(".jsonl"):
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            lines = ["url,caption", *(f"{row['url']},{row['caption']}" for row in rows)]
            (folder / name).write_text("\n".join(lines).replace(",", "\t" if name.endswith("tsv") else ","))

    return write


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.tsv", "t.jsonl"])
def test_all_columns_that_a_table_lacks_are_told_at_once(smoke: Params, tmp_path: Path, name: str) -> None:
    listed(name)(tmp_path)
    source = urls(
        name, url_column="ur", key_column="id", split=None, split_column="part", sha256_column="sha",
        captions=[*COLUMNS, CaptionColumn(column="captoin", name="long", language="en")],
    )  # fmt: skip
    lines = told(smoke, tmp_path, source)
    assert [line.partition(": ")[0] for line in lines] == [
        "0.key_column",
        "0.split_column",
        "0.url_column",
        "0.sha256_column",
        "0.captions.1.column",
    ]
    assert lines[-1].endswith(
        f"{name} has no column captoin; it has url, caption: did you mean caption?"
    ), lines  # fmt: skip
    assert told(smoke, tmp_path, urls(name)) == []


def test_columns_of_every_file_are_looked_at(smoke: Params, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    for number, name in enumerate(("caption", "text")):
        pq.write_table(pa.table({"url": ["http://a"], name: ["x"]}), tmp_path / "part" / f"{number}.parquet")
    assert told(smoke, tmp_path, urls("part")) == [
        "0.captions.0.column: part/1.parquet has no column caption; it has url, text: name one of them "
        "in params"
    ]


def test_a_json_field_that_only_later_objects_have_is_no_problem(smoke: Params, tmp_path: Path) -> None:
    lines = [json.dumps({"url": "http://a"})] * 50 + [json.dumps({"url": "http://b", "caption": "x"})]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert told(smoke, tmp_path, urls("t.jsonl")) == []


def test_what_a_table_is_instead_is_told(smoke: Params, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    (tmp_path / "a.csv").write_text("url,caption\nhttp://a,x\n")
    (tmp_path / "splits.csv").write_text("url,caption,part\n" + "http://a,x,val\n" * 4)
    sources: list[Source] = [
        texts("empty.csv", name="one"),
        urls("a.csv", name="two", columns=["url", "caption"]),
        urls("splits.csv", name="three", split=None, split_column="part"),
    ]
    assert told(smoke, tmp_path, *sources) == [
        "0.path: empty.csv is empty; expected a table with rows",
        "1.url_column: a.csv begins with a line of column names (url, caption), and params name the columns "
        "too; expected rows only: set columns of its source to null, or remove the line",
        "2.path: none of the first 4 rows of splits.csv can be used (unknown_split 4); first splits.csv "
        "line 2: fix params or the data",
    ]


def test_fields_of_annotations_are_told_and_large_files_left_out(
    smoke: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotated(tmp_path)
    wrong = coco(captions=columns("raw", "captions"))
    lines = told(smoke, tmp_path, wrong)
    assert [line.partition(": ")[0] for line in lines] == ["0.captions.0.column", "0.captions.1.column"]
    assert "no annotation has a field raw; their fields are caption, id, image_id" in lines[0]
    assert told(smoke, tmp_path, coco()) == []
    monkeypatch.setattr(check_sources, "MAX_JSON_BYTES", 100)
    looked = look(smoke, tmp_path, wrong)
    assert (looked.problems, looked.notes) == ([], ["coco is not checked: captions.json has 0 MB"])
    assert [group.rows for group in looked.groups] == [None]


def shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("is_packed", [False, True])
def test_captions_beside_images_are_told_with_what_is_there(
    smoke: Params, tmp_path: Path, is_packed: bool
) -> None:
    files = {
        "1.jpg": b"x",
        "1.json": b'{"caption": "a", "seen": 1}',
        "2.jpg": b"x",
        "2.json": b'{"caption": "b"}',
    }
    (tmp_path / "photos").mkdir()
    if is_packed:
        shard(tmp_path / "photos" / "0.tar", files)
    else:
        for name, data in files.items():
            (tmp_path / "photos" / name).write_bytes(data)
    make = shards if is_packed else sidecars
    wanted = [
        CaptionColumn(column=column, name=name, language="en")
        for column, name in (("json.captoin", "alt"), ("json.caption", "long"), ("txt", "short"))
    ]
    there = "there are json.caption, json.seen"
    assert told(smoke, tmp_path, make(path="photos", captions=wanted)) == [
        f"0.captions.0.column: none of the first 2 samples of photos has json.captoin; {there}: did you mean "
        "json.caption?",
        f"0.captions.2.column: none of the first 2 samples of photos has txt; {there}: name one of them",
    ]
    assert told(smoke, tmp_path, make(path="photos", captions=wanted[:1]))[0].startswith(
        "0.captions.0.column: none of the first 2 samples of photos has json.captoin (empty_caption 2); there"
    )
    assert told(smoke, tmp_path, make(path="photos", captions=wanted[1:2])) == []


@pytest.mark.parametrize(
    ("file", "images", "name", "looked_for", "hint"),
    [
        ("images/cat.jpg", "images", "cat.jpg", None, ""),
        ("images/cat.jpg", "images", "images/cat.jpg", None, ""),
        ("images/cat.jpg", None, "images/cat.jpg", None, ""),
        ("images/cat.jpg", "photos", "images/cat.jpg", "photos/images/cat.jpg", "did you mean images: null?"),
        ("images/cat.jpg", None, "cat.jpg", "cat.jpg", "did you mean images: images?"),
        ("photos/cat.jpg", "photos", "images/cat.jpg", "photos/images/cat.jpg",
         "photos holds cat.jpg; remove the folder from the names, or make it"),
        ("images/dog.jpg", "images", "images/cat.jpg", "images/images/cat.jpg",
         "put the pictures there or fix images"),
    ],
)  # fmt: skip
def test_the_path_that_was_looked_for_is_told_where_no_picture_is_there(
    smoke: Params, tmp_path: Path, file: str, images: str | None, name: str, looked_for: str, hint: str
) -> None:
    for folder in ("images", "photos"):
        (tmp_path / folder).mkdir()
    (tmp_path / file).touch()
    (tmp_path / "list.csv").write_text(f"file,caption\n{name},a cat\n")
    shown = Path(images or ".")
    expected = (
        f"0.images: {looked_for} not found; expected what {name} names below "
        f"{tmp_path if images is None else shown}: {hint}"
    )
    assert told(smoke, tmp_path, pictures(images=images)) == ([expected] if looked_for else [])


def test_one_picture_that_is_there_suffices(smoke: Params, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "b.jpg").touch()
    (tmp_path / "list.csv").write_text("file,caption\na.jpg,x\nb.jpg,x\n")
    assert told(smoke, tmp_path, pictures()) == []
    (tmp_path / "images" / "b.jpg").unlink()
    assert (
        "images/a.jpg not found, nor any other of the first 2 pictures;"
        in told(smoke, tmp_path, pictures())[0]
    )


def test_rows_are_known_where_all_were_read_and_bounded_elsewhere(
    smoke: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["url,caption,part", *(f"http://a/{n},x,{'test' if n == 0 else 'train'}" for n in range(3))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    source = urls("t.csv", split=None, split_column="part")
    column = {"alt": Column(ENGLISH, is_list=False)}
    looked = look(smoke, tmp_path, source)
    assert looked.groups == [Group("test", True, column, 1), Group("train", True, column, 2)]
    monkeypatch.setattr(check_sources, "HEAD_ROWS", 2)
    looked = look(smoke, tmp_path, source)
    assert [(group.split, group.rows, group.is_sure) for group in looked.groups] == [
        (split, 3, False) for split in ("test", "train", "validation")
    ]
    limited = look(smoke, tmp_path, source.model_copy(update={"limit": 3}))
    assert {group.rows for group in limited.groups} == {3}
    far = look(smoke, tmp_path, shards(path="https://host.example/{0..9}.tar"))
    assert far.notes == [f"{shards().name} is not checked: its shards are remote"]


def test_texts_of_models_are_looked_at_as_well(smoke: Params, tmp_path: Path) -> None:
    (tmp_path / "words.csv").write_text("text\nx\n")
    tree = smoke.model_dump()
    tree["base_models"]["llm"]["texts"] = [texts("words.csv").model_dump()]
    tree["base_models"]["clip"]["texts"] = [
        texts("words.csv", split="test", captions=columns("text")).model_dump()
    ]
    problems = look_at_sources(Params.model_validate(tree), tmp_path).problems
    assert [(one.location, one.text.replace(f"{tmp_path}/", "")) for one in problems] == [
        (
            ("base_models", "llm", "texts", 0, "captions", 0, "column"),
            "words.csv has no column caption; it has text: name one of them in params",
        ),
        (
            ("base_models", "clip", "texts"),
            "no row is of split train; expected captions to make a vocabulary from",
        ),
    ]


def test_what_is_missing_is_left_to_the_check_of_paths(smoke: Params, tmp_path: Path) -> None:
    looked = look(smoke, tmp_path, urls("t.csv"), karpathy(name="k2"))
    assert (looked.problems, looked.notes) == ([], [])
    assert {name for group in looked.groups for name in group.columns} == {"alt", "raw"}
    (tmp_path / "list.csv").write_text("file,text\na.jpg,x\n")
    (line,) = told(smoke, tmp_path, pictures(images="nowhere"))  # the columns are looked at all the same
    assert line.startswith("0.captions.0.column: list.csv has no column caption")
    annotated(tmp_path)
    wrong = coco(images="nowhere", url_field=None, captions=columns("raw"))
    (line,) = told(smoke, tmp_path, wrong)
    assert line.startswith("0.captions.0.column: captions.json: no annotation has a field raw;")
