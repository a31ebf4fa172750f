"""The connections to one host: who may see the key, through which proxy, how long they are kept."""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from http.cookiejar import DefaultCookiePolicy
from ipaddress import ip_address
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from connector.api.deadlines import DeadlineBackend
from connector.errors import BadSetting

KEEP_ALIVE_S = 4.0  # below the 5 s after which common servers hang up: no race with their FIN
CONNECTIONS_KEPT = 64


def checked_base_url(base_url: str) -> str:
    """`base_url` without a slash at its end. Settings check it too; this is the last door.

    Raises:
        BadSetting: it would show the key to the network.
    """
    try:
        parts = urlsplit(base_url)
        usable = parts.port is None or parts.port >= 0
    except ValueError:
        usable = False
    usable = usable and re.fullmatch(r"[\x21-\x7e\xa0-\U0010ffff]+", base_url) is not None
    if not usable:
        raise BadSetting(
            name="base_url",
            place="HIRINGCENTER_BASE_URL",
            reason="the URL holds a space, a control character or a port that is none",
        )
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


def open_client(base_url: str, headers: Mapping[str, str]) -> httpx.Client:
    """A client for `base_url`. Its time-outs are those of `deadlines.keep`.

    A proxy is taken from the environment (HTTPS_PROXY, ALL_PROXY, NO_PROXY) for https, where the
    key is inside TLS; a plain-http request to loopback never goes to a proxy.

    Raises:
        BadSetting: the environment names a proxy or certificates that can't be used.
    """
    pool = _pool(urlsplit(base_url))
    client = httpx.Client(
        transport=_Transport(pool),
        headers=dict(headers),
        timeout=None,  # noqa: S113 - see above
        follow_redirects=False,
        trust_env=False,  # what is taken from the environment is taken here
    )
    # a cookie that a proxy or a login page sets has no business in the next request
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return client


def _pool(base: SplitResult) -> httpcore.ConnectionPool:
    options: dict[str, Any] = {
        "ssl_context": _ssl_context() if base.scheme == "https" else None,
        "max_connections": None,  # as many as there are threads
        "max_keepalive_connections": CONNECTIONS_KEPT,
        "keepalive_expiry": KEEP_ALIVE_S,
        "network_backend": DeadlineBackend(),
    }
    proxy = _proxy(base)
    if proxy is None:
        return httpcore.ConnectionPool(**options)
    return httpcore.HTTPProxy(proxy_url=str(proxy.url), proxy_auth=proxy.raw_auth, **options)


def _ssl_context() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise BadSetting(
            name="SSL_CERT_FILE or SSL_CERT_DIR",
            place="environment",
            reason=f"the certificates can't be read: {error.strerror or error}",
        ) from None


def _proxy(base: SplitResult) -> httpx.Proxy | None:
    proxies = getproxies()
    url = proxies.get("https") or proxies.get("all")
    if base.scheme != "https" or not url or proxy_bypass(base.hostname or ""):
        return None
    try:
        proxy = httpx.Proxy(url if "://" in url else f"http://{url}")
    except (ValueError, httpx.InvalidURL):
        proxy = None
    if proxy is None or proxy.url.scheme not in ("http", "https"):
        raise BadSetting(
            name="HTTPS_PROXY or ALL_PROXY",
            place="environment",
            reason="expected an http:// or https:// URL of a proxy",
        )
    return proxy


class _Transport(httpx.BaseTransport):
    """httpx over a pool of ours: httpx's own transport takes no network backend."""

    def __init__(self, pool: httpcore.ConnectionPool) -> None:
        self._pool = pool

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=cast("Iterable[bytes]", request.stream),
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            status_code=answer.status,
            headers=answer.headers,
            stream=_Body(answer),
            extensions=answer.extensions,
        )

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        return self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


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
