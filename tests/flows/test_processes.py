"""No process outlives the program that started it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flows import parent_death
from flows.processes import Groups, GroupsStopped, end_groups, spawn

ENVIRONMENT = dict(os.environ)
# a shell in between, as DVC has one, and a child that says who it is and waits
FAMILY = ["sh", "-c", "sleep 600 & echo $!; echo half; wait"]


def _is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_lines_come_one_by_one_with_the_last_even_if_unended(tmp_path: Path) -> None:
    lines: list[str] = []
    command = [sys.executable, "-c", r"print('a\rb\n\nc'); import sys; sys.stderr.write('d'); sys.exit(3)"]
    assert Groups().run(command, tmp_path, ENVIRONMENT, lines.append) == 3
    assert sorted(lines) == ["a", "b", "c", "d"]


def test_stop_ends_the_whole_group_and_starts_nothing_more(tmp_path: Path) -> None:
    groups, lines, stopped = Groups(), [], threading.Event()

    def work() -> None:
        try:
            groups.run(FAMILY, tmp_path, ENVIRONMENT, seen)
        except GroupsStopped:
            stopped.set()

    started = threading.Event()

    def seen(line: str) -> None:
        lines.append(line)
        if line == "half":
            started.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(20)
    groups.stop()
    thread.join(20)
    assert stopped.is_set()
    assert not _is_alive(int(lines[0]))
    with pytest.raises(GroupsStopped):
        groups.run(["true"], tmp_path, ENVIRONMENT, lines.append)


def test_an_error_while_reading_ends_the_group(tmp_path: Path) -> None:
    pids: list[int] = []

    def refuse(line: str) -> None:
        pids.append(int(line))
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - the one raised above
        Groups().run(FAMILY, tmp_path, ENVIRONMENT, refuse)
    assert not _is_alive(pids[0])


def test_what_ignores_the_request_is_killed(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    process = spawn([sys.executable, "-c", stubborn], tmp_path, ENVIRONMENT, subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    end_groups([process], grace_seconds=0.3)
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal is Linux's")
def test_the_command_dies_with_the_program_that_was_killed(tmp_path: Path) -> None:
    child = (
        "import fcntl, time; file = open('held', 'w'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True); time.sleep(600)"
    )
    program = (
        "import os, sys; from pathlib import Path; from flows.processes import Groups\n"
        f"Groups().run([sys.executable, '-c', {child!r}], Path(sys.argv[1]), dict(os.environ), "
        "lambda line: print(line, flush=True))"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(parent_death.__file__).parents[1],
    )
    with parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"held\n"
        parent.kill()
    with (tmp_path / "held").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # waits for the child's end


def test_watching_the_parent_passes_the_status_on() -> None:
    assert parent_death.watch(os.getppid(), [sys.executable, "-c", "raise SystemExit(4)"]) == 4
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    assert parent_death.watch(os.getppid(), killed) == 137
