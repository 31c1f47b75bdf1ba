"""What of prefect.yaml is deployed, and what of it is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prefect.client.orchestration import SyncPrefectClient

from components.errors import ConfigurationError
from flows import deploy
from tests.conftest import ROOT

SAID: dict[str, Any] = {"parameters": {}, "paused": False, "tags": []}
EDITED: dict[str, Any] = {"parameters": {"preset": "demo"}, "paused": True, "tags": ["mine"]}


def _keep(existing: dict[str, Any], last: dict[str, Any], **entry: Any) -> dict[str, Any]:
    server = SimpleNamespace(read_deployment_by_name=lambda _: SimpleNamespace(id="1", **existing))
    kept = {"name": "full", "entrypoint": "flows/llm2clip.py:llm2clip", **entry}
    said = {**SAID, **{field: entry[field] for field in SAID if field in entry}}
    deploy._keep_edited(cast(SyncPrefectClient, server), kept, said, last)
    return {field: kept.get(field, SAID[field]) for field in SAID}


def test_what_people_edited_stays_unless_prefect_yaml_says_something_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []
    # loading a flow sets up Prefect's logging, which caplog does not survive
    monkeypatch.setattr(deploy.log, "warning", lambda form, *values: lines.append(form % values))
    monkeypatch.chdir(ROOT)
    assert _keep(EDITED, {}) == _keep(EDITED, {"1": SAID}) == EDITED
    assert _keep(EDITED, {"1": SAID}, tags=["ours"]) == {**EDITED, "tags": ["ours"]}
    gone = {**EDITED, "parameters": {"preset": "a preset that was removed"}}
    assert _keep(gone, {"1": SAID}) == {**EDITED, "parameters": {}}
    assert len(lines) == 1
    assert lines[0].startswith(
        "parameters of full on the server are no longer valid ('a preset that was removed'"
    )
    with pytest.raises(ConfigurationError, match="the flow of deployment full cannot be loaded"):
        _keep(EDITED, {}, entrypoint="flows/lost.py:llm2clip")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("deployments: [", "cannot be read"),
        ("name: llm2clip", "cannot be read .'deployments'."),
        ("deployments: [full]", "cannot be read"),
        ("deployments: [{name: full}, {name: full}]", "two deployments have one name"),
        (None, "cannot be read .*No such file"),
    ],
)
def test_a_prefect_yaml_that_is_none_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "prefect.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        deploy.deploy(tmp_path)
