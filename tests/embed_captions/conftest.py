"""A project in which everything up to audit has run."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.settings.environment import Environment
from components.storage.layout import Layout
from tests.captioned import write_artifacts


@pytest.fixture
def layout(workspace: Path, env: Environment) -> Layout:
    layout = Layout(env.work_store)
    write_artifacts(layout)
    return layout
