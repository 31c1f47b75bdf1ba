"""One writer at a time, and none beside processes that still train for an earlier one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.errors import InfrastructureError
from components.running.lock import one_writer, training_for


def test_a_second_writer_is_told_who_is_first(tmp_path: Path) -> None:
    message = f"stage is being run by process {os.getpid()}: wait"
    with one_writer(tmp_path, "stage"), pytest.raises(InfrastructureError, match=message):
        with one_writer(tmp_path, "stage", patience_seconds=0):
            pytest.fail("two writers")
    with one_writer(tmp_path, "stage", patience_seconds=0):
        pass


def test_no_writer_starts_beside_processes_that_still_train(tmp_path: Path) -> None:
    with training_for(tmp_path), training_for(tmp_path):
        with pytest.raises(InfrastructureError, match=f"process {os.getpid()}"):
            with one_writer(tmp_path, "stage", patience_seconds=0):
                pytest.fail("a writer beside them")
    with one_writer(tmp_path, "stage", patience_seconds=0), training_for(tmp_path), training_for(tmp_path):
        pass  # a writer starts them itself
