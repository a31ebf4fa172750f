"""What a destination is called: by its type and by where it is, never by who may enter.

The name is shown to people and is a key in the ledger. So one place has one name, however its
credentials are written, and no two places share one. dlt's own names don't serve: its fingerprint
is a hash of the host alone on PostgreSQL, and on MotherDuck one of the token.
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
# where packaged servers put their socket beside their port: the same server as on localhost.
# A socket elsewhere is a server of its own, which may listen on no port at all.
_SOCKET_FOLDERS = ("/var/run/postgresql", "/run/postgresql", "/tmp")  # noqa: S108 - read only
_PORTS = {
    "postgres": 5432, "postgresql": 5432, "redshift": 5439, "mssql": 1433, "synapse": 1433,
    "fabric": 1433, "clickhouse": 9440, "dremio": 32010, "mysql": 3306, "mariadb": 3306,
    "oracle": 1521, "cockroachdb": 26257, "trino": 8080, "http": 80, "https": 443,
}  # fmt: skip
_SCHEME_PORTS = {"http": 80, "https": 443}
_CASE_BLIND = ("mssql", "synapse", "fabric", "snowflake", "databricks")


def label_of(destination_type: str, configuration: Any) -> str | None:
    """`postgres:db.example.com:5432/sales`, `filesystem:s3://bucket/path`; None: it isn't known.

    destination_type: as dlt names it, with or without its module. configuration: dlt's, resolved
    as far as it can be, or mappings of the same names.
    """
    kind = destination_type.rpartition(".")[2]
    place = _PLACES.get(kind, _server)(kind, configuration)
    if not place:
        return None
    if kind in _CASE_BLIND:
        place = place.lower()
    return f"{kind}:{_printable(place)}"


def _field(configuration: Any, path: str) -> Any:
    """`credentials.host` of a specification of dlt's, or of a mapping."""
    for name in path.split("."):
        if isinstance(configuration, Mapping):
            configuration = configuration.get(name)
        else:
            configuration = getattr(configuration, name, None)
    return configuration


def _server(kind: str, configuration: Any) -> str | None:
    """Host, port and database, with the defaults filled in."""
    query = _field(configuration, "credentials.query") or {}
    backend = str(_field(configuration, "credentials.drivername") or kind).partition("+")[0]
    hosts = query.get("host") or query.get("hostaddr") or _field(configuration, "credentials.host")
    ports = query.get("port") or _field(configuration, "credentials.port")
    database = query.get("dbname") or _field(configuration, "credentials.database") or ""
    if not hosts:
        return None
    default = _PORTS.get(kind) or _PORTS.get(backend)
    each_port = str(ports or "").split(",")
    named = []
    for index, host in enumerate(str(hosts).split(",")):  # libpq takes several
        port = each_port[min(index, len(each_port) - 1)] or default
        named.append(f"{_host(host)}:{port}" if port else _host(host))
    return f"{','.join(sorted(set(named)))}/{database}"


def _host(name: str) -> str:
    """One name per machine, as far as that can be told without asking: loopback is `localhost`."""
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
    if not name.isascii():
        with suppress(UnicodeError):
            return name.encode("idna").decode()
    return name


def _host_and_port(netloc: str) -> tuple[str, str]:
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d*))?", netloc)
    return (found[1], found[2] or "") if found else (netloc, "")


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # such as a bracket that isn't closed
        return urlsplit("")


def _url(url: Any) -> str | None:
    """A bucket or a folder, or a service: without user, password and parameters."""
    text = str(url or "")
    parts = _split(text)
    if not text or text in (":memory:", ":external:"):
        return text or None
    if len(parts.scheme) < 2 or parts.scheme == "file":  # one letter is a drive of Windows
        path = unquote(parts.path) if parts.scheme == "file" else text
        return f"file://{os.path.realpath(path)}"
    place = parts.netloc
    if parts.scheme not in ("abfs", "abfss", "adl", "wasb", "wasbs"):  # container@account
        host, port = _host_and_port(place.rpartition("@")[2])
        is_service = parts.scheme in (*_SCHEME_PORTS, "db", "sftp", "grpc")
        port = port or str(_SCHEME_PORTS.get(parts.scheme, ""))
        place = (_host(host) if is_service else host) + (f":{port}" if port else "")
    scheme = {"s3a": "s3", "gs": "gcs", "azure": "az", "abfs": "abfss"}.get(
        parts.scheme, parts.scheme
    )
    path = re.sub("/+", "/", parts.path).rstrip("/")
    return f"{scheme}://{place}{path}"


def _bucket(_kind: str, configuration: Any) -> str | None:
    """A bucket and its path; what else tells two buckets of one name apart goes before it."""
    return _stored(configuration, _field(configuration, "bucket_url"), "credentials")


def _stored(configuration: Any, url: Any, credentials: str) -> str | None:
    place = _url(url)
    if place is None or place.startswith("file://"):
        return place
    endpoint = _field(configuration, f"{credentials}.endpoint_url")
    account = _field(configuration, f"{credentials}.azure_storage_account_name")
    if endpoint and place.startswith("s3://"):
        return f"{place} at {(_url(endpoint) or '').partition('://')[2]}"
    if account and place.startswith("az://"):
        return f"{place} at {account}"
    port = _field(configuration, f"{credentials}.sftp_port")
    if place.startswith("sftp://") and port and int(port) != 22:
        return f"{place} at port {port}"
    return place


def _bigquery(_kind: str, configuration: Any) -> str | None:
    project = _field(configuration, "project_id") or _field(configuration, "credentials.project_id")
    return str(project) if project else None


def _snowflake(_kind: str, configuration: Any) -> str | None:
    account = str(_field(configuration, "credentials.host") or "").lower()
    database = _field(configuration, "credentials.database") or ""
    account = account.removesuffix(".snowflakecomputing.com")
    return f"{account}/{database}" if account else None


def _databricks(_kind: str, configuration: Any) -> str | None:
    host = str(_field(configuration, "credentials.server_hostname") or "")
    catalog = _field(configuration, "credentials.catalog") or ""
    return f"{_host(host.partition('://')[2] or host).rstrip('/')}/{catalog}" if host else None


def _motherduck(_kind: str, configuration: Any) -> str | None:
    database = str(_field(configuration, "credentials.database") or "")
    return database.removeprefix("md:").partition("?")[0].strip("/") or None


def _athena(_kind: str, configuration: Any) -> str | None:
    region = _field(configuration, "credentials.region_name") or "default region"
    catalog = _field(configuration, "aws_data_catalog") or "awsdatacatalog"
    bucket = _split(str(_field(configuration, "query_result_bucket") or "")).netloc
    return f"{region}/{catalog}" + (f" at {bucket.rpartition('@')[2]}" if bucket else "")


def _duckdb(_kind: str, configuration: Any) -> str | None:
    path = _field(configuration, "credentials.database")
    return os.path.realpath(str(path)) if path else None


def _ducklake(_kind: str, configuration: Any) -> str | None:
    catalog = _field(configuration, "credentials.catalog")
    driver = str(_field(catalog, "drivername") or "").partition("+")[0]
    if driver in ("sqlite", "duckdb"):
        place = _duckdb(driver, {"credentials": catalog})
    else:
        place = _server(driver, {"credentials": catalog})
    schema = _field(configuration, "credentials.metadata_schema")
    schema = schema or _field(configuration, "credentials.ducklake_name")
    store = "credentials.storage"
    bucket = _stored(
        configuration, _field(configuration, f"{store}.bucket_url"), f"{store}.credentials"
    )
    known = [f"{driver}:{place}" if place else None, schema, bucket]
    return " ".join(str(each) for each in known if each) or None


def _sqlalchemy(kind: str, configuration: Any) -> str | None:
    driver = str(_field(configuration, "credentials.drivername") or "").partition("+")[0]
    of_file = driver in ("sqlite", "duckdb")
    place = _duckdb(driver, configuration) if of_file else _server(kind, configuration)
    return f"{driver}:{place}" if place else None


def _service(_kind: str, configuration: Any) -> str | None:
    """Services whose place is one URL, in whichever field they have."""
    for name in ("lance_uri", "qd_location", "qd_path", "credentials.bucket_url",
                 "storage.bucket_url", "credentials.uri", "credentials.url",
                 "credentials.location", "credentials.path"):  # fmt: skip
        if found := _url(_field(configuration, name)):
            return found
    return None


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)


_PLACES: dict[str, Callable[[str, Any], str | None]] = {
    "duckdb": _duckdb, "filesystem": _bucket, "bigquery": _bigquery, "snowflake": _snowflake,
    "databricks": _databricks, "motherduck": _motherduck, "athena": _athena,
    "ducklake": _ducklake, "sqlalchemy": _sqlalchemy, "lancedb": _service, "lance": _service,
    "qdrant": _service, "weaviate": _service,
}  # fmt: skip
