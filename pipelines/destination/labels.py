"""The label of a destination: its type and its location, without any credentials.

The label is shown to people and is a key in the ledger. So one location has one label, however its
credentials are written, and no two locations share one. dlt's own fingerprint doesn't do: it is a
hash of the host alone on PostgreSQL, and of the token on MotherDuck.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

_LOOPBACK = "localhost"
_LOOPBACK_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")
# where packaged servers put the socket of the server on localhost. A socket elsewhere belongs to a
# server of its own, which may listen on no port at all.
_SOCKET_FOLDERS = ("/var/run/postgresql", "/run/postgresql", "/tmp")  # noqa: S108 - read only
_PORTS = {
    "postgres": 5432, "postgresql": 5432, "redshift": 5439, "mssql": 1433, "synapse": 1433,
    "fabric": 1433, "clickhouse": 9440, "dremio": 32010, "mysql": 3306, "mariadb": 3306,
    "oracle": 1521, "cockroachdb": 26257, "trino": 8080, "http": 80, "https": 443,
}  # fmt: skip
_SCHEME_PORTS = {"http": "80", "https": "443"}
_SERVICES = (*_SCHEME_PORTS, "db", "sftp", "grpc")
_AZURE_SCHEMES = ("abfs", "abfss", "adl", "wasb", "wasbs")
_SAME_SCHEMES = {"s3a": "s3", "gs": "gcs", "azure": "az", "abfs": "abfss"}
_CASE_BLIND = ("mssql", "synapse", "fabric", "snowflake", "databricks")
Get = Callable[[str], Any]


def label_of(destination_type: str, configuration: Any) -> str | None:
    """`postgres:db.example.com:5432/sales`, `filesystem:s3://bucket/path`; None if unknown.

    destination_type: as dlt names it, with or without its module. configuration: dlt's, resolved
    as far as it can be, or mappings of the same names.
    """
    kind = destination_type.rpartition(".")[2]
    location = _LOCATIONS.get(kind, _server)(_reader(configuration), kind)
    if not location:
        return None
    if kind in _CASE_BLIND:
        location = location.lower()
    return f"{kind}:" + "".join(each if each.isprintable() else "?" for each in location)


def _reader(configuration: Any) -> Get:
    """A function that gets `credentials.host` and such from dlt's configuration or a mapping."""

    def get(path: str) -> Any:
        found = configuration
        for name in path.split("."):
            is_mapping = isinstance(found, Mapping)
            found = found.get(name) if is_mapping else getattr(found, name, None)
        return found

    return get


# --- servers ------------------------------------------------------------------------------------


def _server(get: Get, kind: str) -> str | None:
    """Host, port and database, with the defaults filled in."""
    query = get("credentials.query") or {}
    backend = str(get("credentials.drivername") or kind).partition("+")[0]
    hosts = query.get("host") or query.get("hostaddr") or get("credentials.host")
    ports = str(query.get("port") or get("credentials.port") or "").split(",")
    database = query.get("dbname") or get("credentials.database") or ""
    if not hosts:
        return None
    default = _PORTS.get(kind) or _PORTS.get(backend)
    named = set()
    for index, host in enumerate(str(hosts).split(",")):  # libpq takes several
        port = ports[min(index, len(ports) - 1)] or default
        named.add(f"{_host(host)}:{port}" if port else _host(host))
    return f"{','.join(sorted(named))}/{database}"


def _host(name: str) -> str:
    """One name per machine, as far as possible without a look-up: loopback is `localhost`."""
    name = name.rpartition("@")[2].strip()
    if "%2f" in name.lower():
        name = unquote(name)
    if name.startswith("/"):
        folder = os.path.realpath(name)
        known = {os.path.realpath(each) for each in _SOCKET_FOLDERS}
        return _LOOPBACK if folder in known else folder
    name = name.strip("[]").rstrip(".").lower()
    if not name or name in _LOOPBACK_NAMES or name.endswith(".localhost"):
        return _LOOPBACK
    if re.fullmatch(r"[0-9.]+", name):
        with suppress(OSError):  # 127.1 is an address as well
            name = socket.inet_ntoa(socket.inet_aton(name))
    with suppress(ValueError):
        address = ip_address(name)
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if address.is_loopback or address.is_unspecified:
            return _LOOPBACK
        return f"[{address}]" if isinstance(address, IPv6Address) else str(address)
    with suppress(UnicodeError):
        return name if name.isascii() else name.encode("idna").decode()
    return name


def _sqlalchemy(get: Get, kind: str) -> str | None:
    driver = str(get("credentials.drivername") or "").partition("+")[0]
    location = (_duckdb if driver in ("sqlite", "duckdb") else _server)(get, kind)
    return f"{driver}:{location}" if location else None


def _bigquery(get: Get, _: str) -> str | None:
    project = get("project_id") or get("credentials.project_id")
    return str(project) if project else None


def _snowflake(get: Get, _: str) -> str | None:
    account = str(get("credentials.host") or "").lower().removesuffix(".snowflakecomputing.com")
    return f"{account}/{get('credentials.database') or ''}" if account else None


def _databricks(get: Get, _: str) -> str | None:
    host = str(get("credentials.server_hostname") or "").rpartition("://")[2]
    return f"{_host(host).rstrip('/')}/{get('credentials.catalog') or ''}" if host else None


def _motherduck(get: Get, _: str) -> str | None:
    database = str(get("credentials.database") or "")
    return database.removeprefix("md:").partition("?")[0].strip("/") or None


def _athena(get: Get, _: str) -> str | None:
    region = get("credentials.region_name") or "default region"
    catalog = get("aws_data_catalog") or "awsdatacatalog"
    bucket = _split(str(get("query_result_bucket") or "")).netloc.rpartition("@")[2]
    return f"{region}/{catalog}" + (f" at {bucket}" if bucket else "")


# --- files and buckets --------------------------------------------------------------------------


def _duckdb(get: Get, _: str) -> str | None:
    path = get("credentials.database")
    return os.path.realpath(str(path)) if path else None


def _ducklake(get: Get, _: str) -> str | None:
    catalog = _sqlalchemy(_reader({"credentials": get("credentials.catalog")}), "")
    schema = get("credentials.metadata_schema") or get("credentials.ducklake_name")
    storage = "credentials.storage"
    bucket = _stored(get, get(f"{storage}.bucket_url"), f"{storage}.credentials")
    return " ".join(str(each) for each in (catalog, schema, bucket) if each) or None


def _bucket(get: Get, _: str) -> str | None:
    return _stored(get, get("bucket_url"), "credentials")


def _stored(get: Get, url: Any, credentials: str) -> str | None:
    """A bucket and its path, and what else tells buckets of the same name apart."""
    location = _url(url) or ""
    endpoint = get(f"{credentials}.endpoint_url")
    account = get(f"{credentials}.azure_storage_account_name")
    port = get(f"{credentials}.sftp_port")
    if endpoint and location.startswith("s3://"):
        return f"{location} at {(_url(endpoint) or '').partition('://')[2]}"
    if account and location.startswith("az://"):
        return f"{location} at {account}"
    if port and location.startswith("sftp://") and int(port) != 22:
        return f"{location} at port {port}"
    return location or None


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # such as a bracket that isn't closed
        return urlsplit("")


def _url(url: Any) -> str | None:
    """A bucket or a folder, or a service: without user, password and parameters."""
    text = str(url or "")
    if not text or text in (":memory:", ":external:"):
        return text or None
    parts = _split(text)
    if len(parts.scheme) < 2 or parts.scheme == "file":  # one letter is a drive of Windows
        path = unquote(parts.path) if parts.scheme == "file" else text
        return f"file://{os.path.realpath(path)}"
    location = parts.netloc
    if parts.scheme not in _AZURE_SCHEMES:  # which have container@account
        location = location.rpartition("@")[2]
        found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d*))?", location)
        host, port = (found[1], found[2]) if found else (location, "")
        port = port or _SCHEME_PORTS.get(parts.scheme, "")
        host = _host(host) if parts.scheme in _SERVICES else host
        location = f"{host}:{port}" if port else host
    path = re.sub("/+", "/", parts.path).rstrip("/")
    return f"{_SAME_SCHEMES.get(parts.scheme, parts.scheme)}://{location}{path}"


def _service(get: Get, _: str) -> str | None:
    """Services whose location is one URL, in whichever field it is."""
    fields = ("lance_uri", "qd_location", "qd_path", "credentials.bucket_url", "storage.bucket_url",
              "credentials.uri", "credentials.url", "credentials.location",
              "credentials.path")  # fmt: skip
    return next(filter(None, (_url(get(field)) for field in fields)), None)


_LOCATIONS: dict[str, Callable[[Get, str], str | None]] = {
    "duckdb": _duckdb, "filesystem": _bucket, "bigquery": _bigquery, "snowflake": _snowflake,
    "databricks": _databricks, "motherduck": _motherduck, "athena": _athena,
    "ducklake": _ducklake, "sqlalchemy": _sqlalchemy, "lancedb": _service, "lance": _service,
    "qdrant": _service, "weaviate": _service,
}  # fmt: skip
