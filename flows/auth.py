"""Secret of the local Prefect server, which every client must send."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from components.errors import ConfigurationError

SERVER, CLIENT = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"
FILE = "auth"
RANDOM_BYTES = 32


def server_secret(home: Path) -> tuple[str, Path | None]:
    """Return the secret of the server, and the file that holds it.

    The user's own secret comes first, from either variable of Prefect; it is in no file. Without one, a
    random secret is made once and read from its file from then on.

    Args:
        home: Prefect's folder, which only its owner may enter (mode 0700).

    Raises:
        ConfigurationError: the secret cannot be sent in a header.
    """
    for name in (SERVER, CLIENT):
        if secret := os.environ.get(name):
            return _checked(secret, name), None
    path = home / FILE
    if not (path.is_file() and path.read_bytes().strip()):
        path.unlink(missing_ok=True)  # empty: its writer was killed
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{new_secret()}\n")
    path.chmod(0o600)
    return _checked(path.read_text(errors="replace").strip(), str(path)), path


def new_secret() -> str:
    """Return a random secret of the form `name:password`, as HTTP basic authentication expects."""
    return f"admin:{secrets.token_urlsafe(RANDOM_BYTES)}"


def variables(secret: str) -> dict[str, str]:
    """Return the environment variables that make a server ask for the secret and its clients send it."""
    return {SERVER: secret, CLIENT: secret}


def _checked(secret: str, source: str) -> str:
    if not (secret.isascii() and secret.isprintable()):
        raise ConfigurationError(
            f"{source} cannot be sent as a login; expected one line of printable ASCII; "
            "change it, or remove it to get a random one"
        )
    return secret
