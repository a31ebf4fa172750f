"""The connections to one host: who may see the key, through which proxy, how long they are kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx

from connector.errors import BadSetting
from connector.logs import redact

KEEP_ALIVE_S = 4.0  # below the 5 s after which common servers hang up: no race with their FIN
CONNECTIONS_KEPT = 64


def checked_base_url(base_url: str) -> str:
    """`base_url` without a slash at its end. Settings check it too; this is the last door.

    Raises:
        BadSetting: it would show the key to the network.
    """
    parts = urlsplit(base_url)
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    safe = parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname))
    if plain and safe and parts.hostname:
        return base_url.rstrip("/")
    raise BadSetting(
        name="base_url",
        place="HIRINGCENTER_BASE_URL",
        reason="expected an https:// URL without user or query, as in "
        "https://api.hiringcenterpro.com/v2 (plain http: to 127.0.0.1, ::1 and localhost only)",
    )


def _is_loopback(host: str | None) -> bool:
    try:
        return ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"


def open_connections(base_url: str, headers: Mapping[str, str]) -> httpx.AsyncClient:
    """A client for `base_url` with no time-outs of its own: deadlines are kept from outside.

    Proxies are read from the environment (HTTPS_PROXY, NO_PROXY) for https, where the key is
    inside TLS; a plain-http request to loopback never goes to a proxy.

    Raises:
        BadSetting: the environment names a proxy that can't be used.
    """
    try:
        return httpx.AsyncClient(
            headers=dict(headers),
            timeout=None,  # noqa: S113 - a deadline for all of an exchange is kept from outside
            follow_redirects=False,
            trust_env=urlsplit(base_url).scheme == "https",
            limits=httpx.Limits(
                max_connections=None,
                max_keepalive_connections=CONNECTIONS_KEPT,
                keepalive_expiry=KEEP_ALIVE_S,
            ),
        )
    except (ImportError, ValueError) as error:
        raise BadSetting(
            name="HTTPS_PROXY or ALL_PROXY", place="environment", reason=redact(str(error))
        ) from None


class _WithoutQuery(logging.Filter):
    """httpx logs the URL of every request; a query may hold an email or a phone."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                arg.copy_with(query=None) if isinstance(arg, httpx.URL) else arg
                for arg in record.args
            )
        return True


logging.getLogger("httpx").addFilter(_WithoutQuery())
