"""Stop signals as a stage gets them."""

from __future__ import annotations

import os
import signal

from components.faults import Stopped
from components.running.signals import raise_on_stop_signals


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
