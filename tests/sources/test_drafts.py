"""Whatever happens while one row is made costs that row, in every kind of source."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from components.errors import DataError
from components.sources import drafts
from components.sources.rows import Rejection, Row
from components.sources.values import captions_of
from tests.sources.reading import COLUMNS, columns, read, texts, told, urls
from tests.sources.test_annotations import coco, karpathy
from tests.sources.test_sample_files import sidecars
from tests.sources.test_shard_rows import sample, shards
from tests.storage.test_tar_index import tar

WORDS = ["one", "bad", "two"]


@pytest.fixture(params=["url_list", "jsonl", "text_table", "coco", "karpathy", "sidecars", "shards"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Return a source of three rows, one of each kind in turn."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "list.csv").write_text("url,caption\n" + "".join(f"http://a/{one},{one}\n" for one in WORDS))
    lines = [json.dumps({"url": f"http://a/{one}", "caption": one}) for one in WORDS]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    images = [{"id": one, "coco_url": "http://a/", "filename": f"{one}.jpg", "split": "train",
               "sentences": [{"raw": one}]} for one in WORDS]  # fmt: skip
    said = [{"image_id": one, "caption": one} for one in WORDS]
    for name in ("captions.json", "dataset.json"):
        (tmp_path / name).write_text(json.dumps({"images": images, "annotations": said}))
    (tmp_path / "photos").mkdir()
    for number, one in enumerate(WORDS):
        (tmp_path / f"photos/{number}.jpg").touch()
        (tmp_path / f"photos/{number}.txt").write_text(one)
    tar(tmp_path / "cc.tar", [member for n, one in enumerate(WORDS) for member in sample(str(n), one)])
    return {
        "url_list": urls("list.csv"), "jsonl": urls("list.jsonl"), "text_table": texts("list.csv"),
        "coco": coco(captions=COLUMNS), "karpathy": karpathy(captions=columns("raw")),
        "sidecars": sidecars(), "shards": shards(path="cc.tar"),
    }[request.param]  # fmt: skip


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Have the captions of the second row raise."""

    def captions_or_error(columns: Any, values: Any, *rest: Any) -> Any:
        if "bad" in str(values):
            raise error
        return captions_of(columns, values, *rest)

    for module in ("table_rows", "annotations", "sample_files"):
        monkeypatch.setattr(f"components.sources.{module}.captions_of", captions_or_error)


def test_what_nobody_foresaw_rejects_its_row_and_is_logged_once(
    source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drafts._times_seen.clear()
    raising(monkeypatch, ZeroDivisionError("of a library"))
    for _ in range(2):
        first, bad, last = read(source, tmp_path)
        assert isinstance(first, Row)
        assert isinstance(last, Row)
        assert isinstance(bad, Rejection) and bad.reason == "unexpected"
    assert isinstance(bad, Rejection)
    logged = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in logged] == 2 * [
        f"source {source.name}: {bad.where} is rejected as unexpected (ZeroDivisionError: of a library); "
        "please report this"
    ]
    assert [bool(record.exc_info) for record in logged] == [True, False]


def test_the_places_of_a_kind_are_logged_up_to_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drafts._times_seen.clear()
    raising(monkeypatch, ZeroDivisionError("again"))
    (tmp_path / "list.tsv").write_text("caption\n" + "bad\n" * 30)
    assert {one.partition(" @")[0] for one in told(read(texts("list.tsv"), tmp_path))} == {"unexpected"}
    assert len(caplog.records) == drafts.PLACES_LOGGED


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENAMETOOLONG, errno.ELOOP])
def test_a_file_that_cannot_be_opened_is_unreadable(
    source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    raising(monkeypatch, OSError(number, "no"))
    assert told(read(source, tmp_path))[1].partition(" @")[0] == "unreadable"


@pytest.mark.parametrize(
    "error", [DataError("the source"), MemoryError(), OSError(errno.EIO, "the disk"), KeyboardInterrupt()]
)
def test_what_is_not_the_row_s_own_ends_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    (tmp_path / "list.tsv").write_text("caption\ngood\nbad\n")
    raising(monkeypatch, error)
    with pytest.raises(type(error)):
        read(texts("list.tsv"), tmp_path)
