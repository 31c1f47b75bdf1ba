"""The secret of Prefect's server: random, stable, the owner's alone, or the user's own."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from components.errors import ConfigurationError
from flows import auth
from flows.server import require_home


@pytest.fixture(autouse=True)
def _no_secret_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (auth.SERVER, auth.CLIENT):
        monkeypatch.delenv(name, raising=False)


def test_a_random_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)  # as an older version left it
    require_home(home, private=True)
    secret, path = auth.server_secret(home)
    assert path == home / "auth"
    assert secret.startswith("admin:")
    assert len(secret) > 40
    assert [stat.S_IMODE(part.stat().st_mode) for part in (home, path)] == [0o700, 0o600]
    path.chmod(0o644)
    assert auth.server_secret(home) == (secret, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert auth.server_secret(tmp_path)[0] != secret
    path.write_text("\n")  # its writer was killed
    assert auth.server_secret(home)[0] not in ("", secret)


@pytest.mark.parametrize(
    ("given", "secret"),
    [
        ({auth.SERVER: "a:b"}, "a:b"),
        ({auth.CLIENT: "c"}, "c"),
        ({auth.SERVER: "a:b", auth.CLIENT: "of another server"}, "a:b"),
    ],
)
def test_the_user_s_own_secret_comes_first_and_is_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], secret: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert auth.server_secret(tmp_path) == (secret, None)
    assert list(tmp_path.iterdir()) == []


def test_a_secret_that_no_header_can_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "auth").write_text("two\nlines")
    with pytest.raises(ConfigurationError, match=r"^.*/auth cannot be sent as a login; expected one line of"):
        auth.server_secret(tmp_path)
    monkeypatch.setenv(auth.SERVER, "schlüssel")
    with pytest.raises(ConfigurationError, match=f"^{auth.SERVER} cannot be sent") as refused:
        auth.server_secret(tmp_path)
    assert "schlüssel" not in str(refused.value)
