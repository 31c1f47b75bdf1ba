"""A server that cannot be used is told in one line, and soon."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_HOME, temporary_settings

from components.errors import DataError, PipelineError
from flows import cancel, connection, deploy
from flows import llm2clip as flow
from tests.flows.conftest import Server

pytestmark = pytest.mark.integration

TRY = "; expected a Prefect server; start it, or correct PREFECT_API_URL"
CORRECT = "; expected an address such as http://127.0.0.1:4200/api; correct PREFECT_API_URL"
NO_JSON = "Expecting value: line 1 column 1 (char 0)"
END = b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def _answer(answer: bytes) -> Callable[[socket.socket], None]:
    def send(peer: socket.socket) -> None:
        peer.recv(1 << 16)
        peer.sendall(answer)
        peer.close()

    return send


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def _serve(listening: socket.socket, handle: Callable[[socket.socket], None]) -> str:
    def accept() -> None:
        while True:
            try:
                handle(listening.accept()[0])
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}/api"


def _refusal(caplog: pytest.LogCaptureFixture, url: str, command: Callable[[], int]) -> tuple[int, list[str]]:
    with temporary_settings({PREFECT_API_URL: url}), caplog.at_level(logging.INFO, "llm2clip"):
        code = connection.exit_code(command)
    return code, [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("command", [flow.main, deploy.main, cancel.main])
def test_every_command_ends_with_one_line_where_nobody_listens(
    listener: socket.socket, caplog: pytest.LogCaptureFixture, command: Callable[[], int]
) -> None:
    port = listener.getsockname()[1]
    listener.close()
    said = f"http://127.0.0.1:{port}/api does not answer ([Errno 111] Connection refused){TRY}"
    assert _refusal(caplog, f"http://me:secret@127.0.0.1:{port}/api", command) == (4, [said])


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (b"HTTP/1.1 503 Busy" + END, 4, f"reports an error (503){TRY}"),
        (b"HTTP/1.1 404 Nothing" + END, 2, f"is not a Prefect API (404){CORRECT}"),
        (
            b"HTTP/1.1 200 OK" + END,
            2,
            f"is not a Prefect API (Expecting value: line 1 column 1 (char 0)){CORRECT}",
        ),
        (
            b"HTTP/1.1 401 Who" + END,
            2,
            "refuses the login (401); expected PREFECT_API_AUTH_STRING to be the server's secret; "
            'for the server of `make ui`: export PREFECT_API_AUTH_STRING="$(cat .prefect/auth)"',
        ),
    ],
)
def test_an_answer_that_is_not_a_prefect_server_s(
    listener: socket.socket, caplog: pytest.LogCaptureFixture, answer: bytes, code: int, said: str
) -> None:
    url = _serve(listener, _answer(answer))
    assert _refusal(caplog, url, flow.main) == (code, [f"{url} {said}"])


def test_a_server_that_accepts_and_never_answers(
    listener: socket.socket, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.2)
    held: list[socket.socket] = []
    url = _serve(listener, held.append)
    assert _refusal(caplog, url, flow.main) == (4, [f"{url} does not answer within 0 s{TRY}"])


@pytest.mark.parametrize("url", ["127.0.0.1:4200", "ftp://127.0.0.1/api"])
def test_an_address_that_is_none(caplog: pytest.LogCaptureFixture, url: str) -> None:
    code, lines = _refusal(caplog, url, deploy.main)
    assert code == 2
    assert len(lines) == 1
    assert f"{url} is not a Prefect API" in lines[0]


def test_a_wrong_secret_is_refused_by_the_real_server(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with temporary_settings({PREFECT_API_AUTH_STRING: "admin:wrong"}):
        code, lines = _refusal(caplog, server.api, flow.main)
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith(f"{server.api} refuses the login (401); expected PREFECT_API_AUTH_STRING")


def test_what_needs_a_server_says_so_and_the_flow_needs_a_home(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with temporary_settings({PREFECT_HOME: tmp_path / "file" / "home"}, restore_defaults={PREFECT_API_URL}):
        with pytest.raises(
            PipelineError, match="^PREFECT_API_URL is not set; expected the address of a Prefect server"
        ):
            deploy.main()
        assert connection.exit_code(flow.main) == 2
    assert "file/home cannot be written (Not a directory)" in caplog.text


def test_a_flow_without_a_server_starts_one_and_ends_with_the_fault_s_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise DataError("damaged")

    monkeypatch.setattr(flow, "claimed_workspace", refuse)
    with temporary_settings({PREFECT_HOME: tmp_path / "home"}, restore_defaults={PREFECT_API_URL}):
        assert connection.exit_code(flow.main) == 3
    assert "Error logging to API" not in capsys.readouterr().err  # the server outlives the flow's last words
