"""Environment: where a stage runs (`LLM2CLIP_*` variables), without effect on results."""

from __future__ import annotations

import difflib
import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from components.errors import ConfigurationError

PREFIX = "LLM2CLIP_"
UNSET_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")  # variables that expandvars did not replace
PLAIN_HTTP_HOSTS = f"{PREFIX}PLAIN_HTTP_HOSTS"


class Environment(BaseSettings):
    """Settings from environment variables only, never from a file, so that no secret is beside the code."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, hide_input_in_errors=True
    )

    work_store: Path = Path(".work")
    registry: str = "registry"
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 0  # of torch; 0: torch's default
    processes: int = 0  # of stages that work shard by shard; 0: one per core
    training_processes: int = 0  # processes that train one model; 0: one per GPU, or one without a GPU
    training_layout: Literal["replicated", "sharded"] = (
        "replicated"  # each process holds the whole model, or a part
    )
    plain_http_hosts: str = ""  # comma-separated; keys and images may be sent to them unencrypted
    caption_endpoint: str = ""  # base URL of an OpenAI-compatible server, including /v1
    caption_endpoint_key: SecretStr = SecretStr("")
    embedding_endpoint: str = ""  # the same, for embed_captions.others
    embedding_endpoint_key: SecretStr = SecretStr("")

    @field_validator("threads", "processes", "training_processes")
    @classmethod
    def _not_negative(cls, number: int) -> int:
        if number < 0:
            raise ValueError("expected 0 (as many as fit the machine) or more")
        return number

    @field_validator("work_store", "registry", mode="before")
    @classmethod
    def _expanded(cls, value: Any) -> Any:  # noqa: ANN401 - a path as text, or as a Path
        return _expanded_path(value) if isinstance(value, str) and "://" not in value else value

    @field_validator("caption_endpoint", "embedding_endpoint")
    @classmethod
    def _is_encrypted(cls, endpoint: str, info: ValidationInfo) -> str:
        if host := plain_http_host(endpoint, info.data.get("plain_http_hosts", "")):
            raise ValueError(
                f"a key, pictures and texts would go to {host} over plain http; expected https: change the "
                f"address, or, where nobody else can listen, name the host in {PLAIN_HTTP_HOSTS}"
            )
        return endpoint


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is loopback, without a DNS lookup."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.removesuffix(".").rpartition(".")[2].lower() == "localhost"


def plain_http_host(url: str, allowed: str) -> str | None:
    """Return the host that a URL would send data to unencrypted.

    Args:
        url: A URL that may hold secrets.
        allowed: The value of `Environment.plain_http_hosts`.

    Returns:
        The host; None for https, for loopback, for an allowed host, and for text that is no URL.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return None
    hosts = {name.strip().strip("[]").lower() for name in allowed.split(",")}
    return host if parts.scheme == "http" and host and not is_loopback(host) and host not in hosts else None


def load_environment() -> Environment:
    """Read the environment.

    Raises:
        ConfigurationError: an unknown `LLM2CLIP_` name, with the nearest known one, or a bad value.
    """
    known = [PREFIX + name.upper() for name in Environment.model_fields]
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            matches = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {matches[0]}?" if matches else f"known are {', '.join(known)}"
            raise ConfigurationError(
                f"unknown environment variable {name}; {hint} (training values live in params.yaml)"
            )
    try:
        return Environment()
    except ValidationError as error:
        detail = error.errors()[0]
        name = PREFIX + str(detail["loc"][0]).upper()
        reason = detail["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"environment variable {name}: {reason}") from None


def _expanded_path(text: str) -> str:
    """Replace a leading `~` and `$NAME` like a shell, because variables set outside a shell keep them."""
    path = os.path.expanduser(os.path.expandvars(text))
    if unset := UNSET_VARIABLE.search(path):
        raise ValueError(
            f"{text} names the variable {unset[0]}, which is not set; set it or write the path out"
        )
    if path.startswith("~"):
        raise ValueError(f"{text} names a user without a home folder here; write the path out")
    return path
