"""Stop signals as a stage gets them."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from components.errors import Stopped
from components.running.output import output
from components.running.progress import Progress
from components.running.signals import STOP_SIGNALS, raise_on_stop_signals, run_or_stop
from components.storage.layout import Layout


def test_a_second_signal_does_not_interrupt_the_stopping() -> None:
    raise_on_stop_signals()
    last_words = []
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except Stopped:
        os.kill(os.getpid(), signal.SIGTERM)  # DVC's death, after its group was told
        os.kill(os.getpid(), signal.SIGINT)
        last_words.append("said")
    assert last_words == ["said"]


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_inside_an_event_loop_is_not_lost(number: signal.Signals) -> None:
    raise_on_stop_signals()
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    seen = []

    async def wait_for_good() -> None:
        asyncio.get_running_loop().call_soon(
            os.kill, os.getpid(), number
        )  # the loop swallows what this raises
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cleaned up")

    with asyncio.Runner() as runner, pytest.raises(Stopped):
        run_or_stop(runner, wait_for_good())
    assert seen == ["cleaned up"]
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_a_signal_as_the_work_ends_is_not_lost() -> None:
    raise_on_stop_signals()

    async def end() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 1

    with asyncio.Runner() as runner, pytest.raises(Stopped):
        run_or_stop(runner, end())


def test_work_that_nobody_stops_gives_its_result_or_its_own_failure() -> None:
    async def give() -> int:
        return 1

    async def cancel_itself() -> None:
        raise asyncio.CancelledError

    with asyncio.Runner() as runner:
        assert run_or_stop(runner, give()) == 1
        with pytest.raises(asyncio.CancelledError):
            run_or_stop(runner, cancel_itself())


class Ending:
    """Sends a stop signal as it ends, where Python prints an exception and goes on."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(10))  # the handler is called between two steps of Python


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_a_destructor_swallows_is_raised_again(tmp_path: Path) -> None:
    progress = Progress(tmp_path, "work", 2, "units")
    layout = Layout(tmp_path / "work", tmp_path)
    progress.advance()
    raise_on_stop_signals()
    ending = Ending()
    with pytest.raises(Stopped), output(layout, "download"):
        del ending
    assert not layout.artifact("download").exists()
    with pytest.raises(Stopped):
        progress.advance()
