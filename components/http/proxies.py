"""HTTP proxies from the environment, for our own clients.

huggingface_hub and boto3 read the same variables themselves.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from urllib.request import getproxies_environment

import aiohttp
from yarl import URL

from components.errors import ConfigurationError, InfrastructureError
from components.settings.environment import is_loopback

SCHEMES = ("http", "https")
ANSWER_SECONDS = 5.0
LOGIN_WANTED = 407  # HTTP status


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy.

    Attributes:
        variable: Environment variable that names it.
        url: Its URL, maybe with a password; messages show `address` instead.
    """

    variable: str
    url: URL

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{self.url.host_subcomponent}:{self.url.port}"

    def is_cause_of(self, error: aiohttp.ClientError) -> bool:
        """Return True if an error is from connecting to the proxy, not to the server behind it."""
        return isinstance(error, aiohttp.ClientConnectorError) and error.host == self.url.raw_host

    def answers(self) -> bool:
        """Return True if the proxy accepts connections."""
        try:
            with socket.create_connection((self.url.raw_host or "", self.url.port or 0), ANSWER_SECONDS):
                return True
        except (OSError, UnicodeError):
            return False

    def no_answer(self) -> InfrastructureError:
        """Return the error for a proxy that accepts no connection."""
        return InfrastructureError(
            f"the proxy {self.address} ({self.variable}) does not answer; expected it to accept connections: "
            "start it, or fix or unset the variable, and rerun"
        )

    def no_login(self) -> ConfigurationError:
        """Return the error for a proxy that refuses the login."""
        return ConfigurationError(
            f"the proxy {self.address} answers {LOGIN_WANTED}; expected a login that it accepts: set "
            f"{self.variable} to http://USER:PASSWORD@{self.address}"
        )


class Proxies:
    """Choose the proxy for a URL.

    Args:
        direct: Hosts reached without a proxy, besides loopback and the hosts of NO_PROXY.

    Raises:
        ConfigurationError: a variable names no usable proxy.
    """

    def __init__(self, direct: Collection[str] = ()) -> None:
        self._direct = frozenset(direct)
        self._environment = getproxies_environment()
        self._proxies = {scheme: proxy for scheme in SCHEMES if (proxy := self._proxy_for_scheme(scheme))}

    def all(self) -> list[Proxy]:
        """Return each proxy once."""
        return list({proxy.url: proxy for proxy in self._proxies.values()}.values())

    def of(self, url: URL) -> Proxy | None:
        """Return the proxy for a URL; None if its host is reached directly."""
        host, proxy = url.raw_host or "", self._proxies.get(url.scheme)
        if proxy is None or host in self._direct or is_loopback(host) or self._is_exempt(host, url.port):
            return None
        return proxy

    def _proxy_for_scheme(self, scheme: str) -> Proxy | None:
        name = scheme if self._environment.get(scheme) else "all"
        text, variable = self._environment.get(name, ""), f"{name.upper()}_PROXY"
        if not text:
            return None
        try:
            url = URL(text if "://" in text else f"http://{text}")
        except ValueError:
            url = URL()
        if url.scheme not in SCHEMES or not url.raw_host:
            raise ConfigurationError(
                f"{variable} names no http(s) proxy; expected http://HOST:PORT: fix or unset it"
            )
        return Proxy(variable, url)

    def _is_exempt(self, host: str, port: int | None) -> bool:
        """Return True if NO_PROXY lists a host: its name, domain, name with port, or network."""
        for entry in self._environment.get("no", "").lower().split(","):
            name = entry.strip().strip("[]").removeprefix("*").lstrip(".")
            if name and (
                name in (host, f"{host}:{port}") or host.endswith(f".{name}") or _is_in_network(name, host)
            ):
                return True
            if entry.strip() == "*":
                return True
        return False


def _is_in_network(network: str, host: str) -> bool:
    """Return True if an address is in a network, such as 10.0.0.0/8."""
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False
