"""Parsing single values, rate limits and URLs, with plain functions over text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from connector.errors import nearest, quoted

_MOST = 10**9
_LONGEST_S = 366 * 86_400.0


@dataclass(frozen=True)
class RateLimit:
    """At most `limit` requests in any `length_s` seconds."""

    limit: int
    length_s: float


def parse_rate_limits(text: Any) -> Any:
    """`300/60s,6000/3600s` as RateLimits; a value that isn't text is returned as it is."""
    if not isinstance(text, str):
        return text
    limits = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+(?:\.\d+)?)\s*s\s*", part)
        if not match or not 1 <= int(match[1]) <= _MOST or not 0 < float(match[2]) <= _LONGEST_S:
            raise ValueError("expected count/seconds + 's', as in 300/60s,6000/3600s")
        limits.append(RateLimit(int(match[1]), float(match[2])))
    return tuple(limits)


def is_loopback(host: str | None) -> bool:
    """Whether `host` (a name or an address, no port) can only be this machine."""
    if not host:
        return False
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_public_url(url: str) -> str:
    """`url`; ValueError unless it is https, or http to loopback."""
    try:
        parts = urlsplit(url)
    except ValueError:  # its message may quote a password
        raise ValueError("expected an https:// URL") from None
    if not re.fullmatch(r"[\x21-\x7e\xa0-\U0010ffff]*", url):
        raise ValueError("the URL holds a space or a control character; write a space as %20")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected an https:// URL")
    try:
        parts.port  # noqa: B018 - it is read only when it is asked for
    except ValueError:
        raise ValueError("the port must be a number from 0 to 65535") from None
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError(
            f"plain http to {parts.hostname} would show what is sent to the network; use https "
            "(plain http is for 127.0.0.1, ::1 and localhost)"
        )
    return url


def check_base_url(url: str) -> str:
    """`url` without a trailing slash; ValueError unless the API key may go there."""
    parts = urlsplit(check_public_url(url))
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("the URL must hold no user, password, query or fragment")
    return url.rstrip("/")


def check_ledger_url(url: str) -> str:
    """`url` in SQLAlchemy's form; ValueError unless it can be a ledger."""
    expected = (
        "expected postgresql://user:password@host/database, or sqlite:////absolute/path/ledger.db"
    )
    scheme, separator, rest = url.partition("://")
    try:
        urlsplit(url).port  # noqa: B018 - it is read only when it is asked for
    except ValueError as error:
        raise ValueError(expected) from error
    kind = {"postgres": "postgresql"}.get(scheme, scheme)
    if not separator or kind not in ("postgresql", "postgresql+psycopg", "sqlite"):
        raise ValueError(expected)
    if kind == "sqlite" and (not rest.startswith("/") or rest in ("/", "/:memory:")):
        raise ValueError(expected)
    if query := rest.partition("?")[2]:
        if kind == "sqlite":
            raise ValueError("a SQLite ledger takes no options after ?")
        _check_options(query)
    elif kind != "sqlite":
        _driver()
    return f"{kind}://{rest}"


_INTEGERS = (
    "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count",
    "tcp_user_timeout",
)  # fmt: skip
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": (
        "any", "read-write", "read-only", "primary", "standby", "prefer-standby"
    ),
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer", "require"),
}  # fmt: skip


def _check_options(query: str) -> None:
    """ValueError, naming the option but never its value, for an option that libpq doesn't take.

    https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
    """
    known = {option.keyword.decode() for option in _driver().Conninfo.get_defaults()}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            like = nearest(name, known)
            hint = f" Did you mean {like!r}?" if like else ""
            is_name = re.fullmatch(r"\w+", name) and "@" not in query  # else part of a password?
            what = quoted(name) if is_name else "what follows the first ?"
            raise ValueError(f"{what} isn't a PostgreSQL connection option.{hint}")
        if name in _INTEGERS and not re.fullmatch(r"-?\d{1,9}", value):
            raise ValueError(f"the option {name} isn't a whole number")
        if name == "port" and not all(_is_port(each) for each in value.split(",")):
            raise ValueError("the option port isn't a port number")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise ValueError(f"the option {name} takes one of {', '.join(_CHOICES[name])}")


def _driver() -> Any:
    """psycopg's libpq, imported only where it is needed."""
    try:
        from psycopg import pq
    except ImportError as error:
        extra = "pip install 'hiringcenter-connector[postgres]'"
        raise ValueError(f"a ledger on PostgreSQL needs an extra: {extra}") from error
    return pq


def _is_port(text: str) -> bool:
    return not text or (text.isdecimal() and 0 < int(text[:6]) < 65_536)
