"""A path that names many files is one table, in the order of names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.errors import ConfigurationError, DataError
from components.sources.files import check_pin
from tests.sources.reading import good, read, texts, told


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Four parts of two rows each, the third one without any, and what else such a folder holds."""
    (tmp_path / "laion").mkdir()
    for part in (1, 0, 3, 2):
        words = [f"{part} {row}" for row in range(2)] if part != 2 else []
        table = pa.table({"caption": pa.array(words, pa.string())})
        pq.write_table(table, tmp_path / "laion" / f"part-{part:05d}.parquet")
    (tmp_path / "laion" / "_SUCCESS").touch()
    (tmp_path / "laion" / ".part-9.parquet").touch()
    return tmp_path


@pytest.mark.parametrize("path", ["laion", "laion/part-*.parquet", "*/part-0000[0-3].parquet"])
def test_a_folder_or_a_pattern_is_one_table(parts: Path, path: str) -> None:
    rows = good(read(texts(path), parts))
    assert told(list(rows)) == ["0 0", "0 1", "1 0", "1 1", "3 0", "3 1"]
    keys = [row.key for row in rows]
    assert len(set(keys)) == 6 and [row.key for row in read(texts(path, limit=3), parts)] == keys[:3]
    assert told(read(texts(path, limit=3), parts)) == ["0 0", "0 1", "1 0"]


def bash(command: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()[0]


def documented_pin(inputs: Path, **environment: str) -> str:
    """Return what the command in the docstring of `check_pin` prints."""
    found = re.search(r"`cd inputs/NAME && (.+)`", str(check_pin.__doc__))
    assert found
    return bash(found[1], inputs, **environment)


needs_sha256sum = pytest.mark.skipif(
    not (shutil.which("sha256sum") and shutil.which("bash")), reason="needs sha256sum and bash"
)


@needs_sha256sum
def test_many_files_are_pinned_by_what_sha256sum_prints(parts: Path) -> None:
    pinned = texts("laion", sha256=documented_pin(parts))
    assert len(read(pinned, parts)) == 6
    (parts / "laion/part-00003.parquet").rename(parts / "laion/part-00004.parquet")
    with pytest.raises(DataError, match="the list of 4 files from .*part-00000.parquet on has sha256"):
        read(pinned, parts)


@needs_sha256sum
def test_a_pin_is_the_same_in_a_shell_that_sorts_as_people_do(parts: Path, tmp_path: Path) -> None:
    locales = tmp_path / "locales"
    locales.mkdir()
    if (
        not shutil.which("localedef")
        or subprocess.run(
            ["localedef", "-i", "en_US", "-f", "UTF-8", locales / "en_US.UTF-8"],
            capture_output=True,
            check=False,
        ).returncode
    ):
        pytest.skip("needs a locale's source")
    (parts / "laion/part-00003.parquet").rename(parts / "laion/Part-00003.parquet")
    (parts / "laion/part-00001.parquet").rename(parts / "laion/PART-00001.parquet")
    english = {"LOCPATH": str(locales), "LC_ALL": "en_US.UTF-8"}
    assert bash("echo laion/*", parts, **english) == "laion/part-00000.parquet"  # C has PART-00001 first
    assert len(read(texts("laion", sha256=documented_pin(parts, **english)), parts)) == 6


@pytest.mark.parametrize("path", ["lists", "lists/*", "lists/B.CSV"])
def test_upper_and_lower_case_of_suffixes_are_one(tmp_path: Path, path: str) -> None:
    (tmp_path / "lists").mkdir()
    for name in ("a.csv", "B.CSV") if path != "lists/B.CSV" else ("B.CSV",):
        (tmp_path / "lists" / name).write_text(f"caption\n{name}\n")
    assert told(read(texts(path), tmp_path))[0] == "B.CSV"


def test_a_compressed_table_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    for name in ("a.csv", "b.csv.zst"):
        (tmp_path / "lists" / name).write_text("caption\nx\n")
    with pytest.raises(
        ConfigurationError, match="lists holds b.csv.zst, which is compressed; expected .parq"
    ):
        read(texts("lists"), tmp_path)
    assert len(read(texts("lists/*.csv"), tmp_path)) == 1


def test_what_is_not_there_or_not_one_table_stops(parts: Path) -> None:
    with pytest.raises(ConfigurationError, match="no file fits .*part-x"):
        read(texts("laion/part-x*.parquet"), parts)
    with pytest.raises(ConfigurationError, match="lion not found; its folder holds laion"):
        read(texts("lion"), parts)
    (parts / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="empty holds no .parquet"):
        read(texts("empty"), parts)
    (parts / "laion" / "more.csv").write_text("caption\nx\n")
    with pytest.raises(ConfigurationError, match=r"holds files of 2 kinds, .csv, .parquet; .* laion/\*.csv"):
        read(texts("laion"), parts)
    words = texts("x").captions[0].model_copy(update={"column": "words"})
    with pytest.raises(ConfigurationError, match="part-00000.parquet has no column words; it has caption"):
        read(texts("laion/*.parquet", captions=[words]), parts)
    for path in (parts / "laion").glob("part-*"):
        pq.write_table(pa.table({"caption": pa.array([], pa.string())}), path)
    with pytest.raises(DataError, match="no rows"):
        read(texts("laion/*.parquet"), parts)
