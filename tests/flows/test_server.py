"""How the end of Prefect's programs is explained, and a home that cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.errors import ConfigurationError
from flows import server


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (-9, "was killed by SIGKILL"),
        (137, "was killed by SIGKILL"),
        (-15, "was killed by SIGTERM"),
        (0, "ended with exit code 0"),
        (1, "ended with exit code 1"),
        (255, "ended with exit code 255"),
    ],
)
def test_an_end_is_told_by_its_signal_or_its_code(status: int, said: str) -> None:
    assert server.ending(status) == said


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "nothing"),
        ("up\n\n", "up"),
        (
            "  File x\nsqlite3.DatabaseError: no database\n(see the docs)\nServer stopped!\n",
            "sqlite3.DatabaseError: no database",
        ),
    ],
)
def test_a_log_is_told_by_its_last_error_or_its_last_line(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "server.log"
    path.write_text(text)
    assert server.last_line(path) == f"{path} ends with: {line}"


def test_a_home_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError) as refused:
        server.require_home(tmp_path / "file" / "home")
    assert str(refused.value) == (
        f"{tmp_path}/file/home cannot be written (Not a directory); expected a folder for Prefect's "
        "database; make it writable or, without `make ui`, set PREFECT_HOME to another"
    )
