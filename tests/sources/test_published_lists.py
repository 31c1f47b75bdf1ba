"""The columns of published data sets, read by params alone."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.sources.rows import ImageUrl
from tests.sources.reading import columns, good, read, urls

DREAMLIP = [
    "raw_caption", "shortIB_captions", "longIB_captions", "shortSV_captions", "longSV_captions",
    "shortLLA_captions", "longLLA_captions",
]  # fmt: skip
SHA256 = "ab" * 32


def test_dreamlip(tmp_path: Path) -> None:
    long = (
        'The image, taken at dusk, shows a "bus".\n\nIn it, on it, at it, by it, to it, of it, up it, a man.'
    )
    with (tmp_path / "cc3m_3long_3short_1raw_captions_url.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Image Path", *DREAMLIP])
        writer.writerow(["http://a/1.jpg", "a bus", "a bus, red", long, "", long, "[]", "['one', 'two']"])
    source = urls(
        "cc3m_3long_3short_1raw_captions_url.csv", url_column="Image Path", captions=columns(*DREAMLIP)
    )
    (row,) = good(read(source, tmp_path))
    assert row.image == ImageUrl("http://a/1.jpg")
    assert [(one.column, one.text) for one in row.captions] == [
        ("raw_caption", "a bus"),
        ("shortib_captions", "a bus, red"),
        ("longib_captions", " ".join(long.split())),
        ("longsv_captions", " ".join(long.split())),
        ("longlla_captions", "one"),
        ("longlla_captions", "two"),
    ]


@pytest.mark.parametrize(
    ("table", "url", "texts", "sha256"),
    [
        ({"URL": "http://a/1", "TEXT": "alt", "WIDTH": 640, "HEIGHT": 480, "similarity": 0.31,
          "hash": -1, "pwatermark": 0.2, "punsafe": 0.1}, "URL", ["TEXT"], None),
        ({"uid": "f0", "url": "http://a/1", "text": "alt", "original_width": 640, "original_height": 480,
          "clip_b32_similarity_score": 0.2, "face_bboxes": [[0.1, 0.2]], "sha256": SHA256}, "url", ["text"],
         "sha256"),
        ({"url": "http://a/1", "re_caption": "a long one", "org_caption": "alt", "sha256": SHA256.upper(),
          "key": "000", "re_clip_score": 0.3, "re_length": 60}, "url", ["org_caption", "re_caption"],
         "sha256"),
    ],
    ids=["laion", "datacomp", "recap_datacomp"],
)  # fmt: skip
def test_parquet_lists(
    tmp_path: Path, table: dict[str, Any], url: str, texts: list[str], sha256: str | None
) -> None:
    pq.write_table(pa.Table.from_pylist([table]), tmp_path / "part-00000.parquet")
    source = urls("part-00000.parquet", url_column=url, captions=columns(*texts), sha256_column=sha256)
    (row,) = good(read(source, tmp_path))
    assert row.image == ImageUrl("http://a/1", SHA256 if sha256 else None)
    assert [one.text for one in row.captions] == [table[text] for text in texts]


def test_a_pin_is_a_sha256_or_none(tmp_path: Path) -> None:
    pins = ["ab" * 32, None, "", "ab", "g" * 64]
    table = {"url": [f"http://a/{n}" for n in range(5)], "caption": ["x"] * 5, "pin": pins}
    pq.write_table(pa.table(table), tmp_path / "list.parquet")
    rows = read(urls("list.parquet", sha256_column="pin"), tmp_path)
    assert [getattr(row, "image", None) or getattr(row, "reason", None) for row in rows] == [
        ImageUrl("http://a/0", SHA256), ImageUrl("http://a/1"), ImageUrl("http://a/2"),
        "bad_sha256", "bad_sha256",
    ]  # fmt: skip
