"""How the settings' destination is identified: its label, lock, number and work folder.

Nothing is opened here. Only one pull at a time may write a DuckDB file, or a dataset of a server:
locks and folders are named after these.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import sqlalchemy as sa

from connector.errors import ConfigurationError, did_you_mean
from connector.settings import Settings
from connector.settings.folders import OLD_STATE_NAME, open_state_dir

_NO_FILE = r"(?i)[a-z][a-z0-9+]+:|md:.*|:.*:"  # s3://bucket, md:database, :memory:


@dataclass(frozen=True)
class WorkPaths:
    """Where one destination's working files live, below the state directory.

    On DuckDB a destination is a file: several datasets (accounts) in it share a working file,
    since what analysts open is one copy of all of them.
    """

    work_dir: Path
    pipelines_dir: Path

    @property
    def working_file(self) -> Path:
        """A DuckDB file: rows are loaded into it, or for a server it holds the ids scans saw."""
        return self.work_dir / "_hc_working.duckdb"


def work_paths(settings: Settings) -> WorkPaths:
    """The working paths of the settings' destination."""
    name = duckdb_file(settings).stem if is_duckdb(settings) else settings.dataset
    work_dir = settings.state_path / "work" / work_folder(name, _location(settings))
    return WorkPaths(work_dir, work_dir / "pipelines" / settings.dataset)


def work_folder(name: str, location: str) -> str:
    """The name of a destination's working folder. name: of the file or dataset, for people."""
    digest = hashlib.sha256(location.encode()).hexdigest()[:10]
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)}-{digest}"


def prepare_state_dir(settings: Settings) -> Path:
    """Create the state directory, private to this user; one of version 0.1 in the project is moved.

    Raises:
        ConfigurationError: it can't be created or written, or its path can't be used for loads.
        AlreadyRunning: a run of version 0.1 is active.
    """
    return open_state_dir(settings.state_dir, old=settings.project.folder / OLD_STATE_NAME)


# --- names --------------------------------------------------------------------------------------


def destination_label(settings: Settings) -> str:
    """What people call the destination: `duckdb:/data/x.duckdb#hiringcenter`.

    Raises:
        ConfigurationError: dlt's configuration doesn't say where it is.
    """
    location = _location(settings)
    is_file = location.startswith("duckdb:")
    return _bounded(f"{location}#{settings.dataset}" if is_file else location, 512)


def destination_number(settings: Settings) -> int:
    """The number that stands for the destination in the outbox."""
    return number_of(destination_label(settings))


def number_of(name: str) -> int:
    """The number that stands for a name: of a destination, of an account."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def pull_lock_name(settings: Settings) -> str:
    """The lock of the one pull that may run per destination."""
    return f"pull into {_bounded(_location(settings), 240)}"


def installation_id(settings: Settings) -> str:
    """16 hex digits that stand for the ledger in use.

    State is kept per user, so another user, another machine or another state directory is another
    installation. Machines that share a PostgreSQL ledger are one.
    """
    url = sa.make_url(settings.resolved_ledger_url)
    if url.get_backend_name() == "sqlite":
        location = f"{socket.gethostname()}\0{os.getuid()}\0{url.database}"
    else:
        credentials = {"host": url.host, "port": url.port, "database": url.database}
        location = label_of("postgres", {"credentials": {**credentials, "query": url.query}}) or ""
        if location.startswith(("postgres:localhost:", "postgres:/")):
            location = f"{socket.gethostname()}\0{location}"
    return hashlib.sha256(location.encode()).hexdigest()[:16]


def _bounded(name: str, length: int) -> str:
    """`name`, shortened to `length` for the ledger's keys; a digest keeps it unique."""
    if len(name) <= length:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: length - 18]}..{digest}"


# --- where it is --------------------------------------------------------------------------------


def is_duckdb(settings: Settings) -> bool:
    """Whether rows go to a DuckDB file of ours, published for analysts; by type, not by name."""
    return destination_type(settings) == "duckdb"


def destination_type(settings: Settings) -> str:
    """dlt's type of the configured destination: `postgres`, also of one that is named otherwise.

    Raises:
        ConfigurationError: dlt knows no such destination.
    """
    return "duckdb" if settings.destination == "duckdb" else _configured(settings)[0]


def destination_kind(settings: Settings) -> str:
    """dlt's type, and what else decides how a destination behaves: `sqlalchemy:mysql` (MariaDB
    too), `filesystem:delta`. The settings' name for it decides nothing.

    Raises:
        ConfigurationError: dlt knows no such destination.
    """
    if settings.destination == "duckdb":
        return "duckdb"
    kind, configuration = _configured(settings)
    if kind == "sqlalchemy":
        drivername = getattr(configuration.credentials, "drivername", None) or ""
        backend = drivername.partition("+")[0]
        return f"{kind}:{'mysql' if backend == 'mariadb' else backend}"
    has_format = kind in ("filesystem", "athena") and settings.table_format
    return f"{kind}:{settings.table_format}" if has_format else kind


def _location(settings: Settings) -> str:
    """The location of a DuckDB file, or of a dataset on a server."""
    if settings.destination == "duckdb":
        return f"duckdb:{duckdb_file(settings)}"
    kind, configuration = _configured(settings)
    if kind == "duckdb":
        _check_same_file(settings, configuration)
        return f"duckdb:{duckdb_file(settings)}"
    label = label_of(kind, configuration)
    if label is None:
        raise _unusable_destination(settings, f"its location isn't configured. {_advice(settings)}")
    return f"{label}#{settings.dataset}"


def _configured(settings: Settings) -> tuple[str, Any]:
    """(dlt's type of the destination, its configuration as far as it is set)."""
    from dlt.common.configuration.exceptions import ConfigurationException

    from pipelines.destination.dlt_options import resolved_destination
    from pipelines.destination.load_errors import missing_package

    try:
        destination, configuration = resolved_destination(settings.destination)
    except ConfigurationError:  # one of dlt's files is broken
        raise
    except ConfigurationException as error:  # its message may quote the value
        reason = f"dlt can't read its configuration ({type(error).__name__}). {_advice(settings)}"
        raise _unusable_destination(settings, reason) from error
    except Exception as error:
        if (missing := missing_package(error)) is not None:
            raise _unusable_destination(settings, str(missing)) from error
        hint = did_you_mean(settings.destination, (*_URLS, *_PARTS, "duckdb", "filesystem"))
        reason = (
            f"dlt has no such destination, or can't load it ({type(error).__name__}).{hint}"
            ' Check its name, and install its package: pip install "dlt[NAME]".'
        )
        raise _unusable_destination(settings, reason) from error
    return destination.destination_type.rpartition(".")[2], configuration


def _unusable_destination(settings: Settings, reason: str) -> ConfigurationError:
    return ConfigurationError(f"HIRINGCENTER_DESTINATION={settings.destination!r}: {reason}")


def _advice(settings: Settings) -> str:
    name = settings.destination.rpartition(".")[2]
    credentials = f"DESTINATION__{name.upper()}__CREDENTIALS"
    if name in ("filesystem", "athena"):
        what = f"DESTINATION__{name.upper()}__BUCKET_URL, such as s3://bucket/folder"
    elif name in ("bigquery", "databricks"):
        parts = _PARTS[name]
        what = ", ".join(f"{credentials}__{part}" for part in parts)
    else:
        what = f"{credentials}, such as {_URLS.get(name, _URLS['postgres'])}"
    return (
        f"Set it the dlt way: {what}; in the environment, in .env, or as "
        f"[destination.{name}] in .dlt/secrets.toml."
    )


_PARTS = {
    "bigquery": ("PROJECT_ID", "PRIVATE_KEY", "CLIENT_EMAIL"),
    "databricks": ("SERVER_HOSTNAME", "HTTP_PATH", "ACCESS_TOKEN", "CATALOG"),
}
_URLS = {
    "postgres": "postgresql://user:password@host:5432/database",
    "redshift": "redshift://user:password@host:5439/database",
    "snowflake": "snowflake://user:password@account/database?warehouse=name",
    "motherduck": "md:database?motherduck_token=token",
    "sqlalchemy": "mysql+pymysql://user:password@host:3306/database",
    "mssql": "mssql://user:password@host:1433/database",
    "clickhouse": "clickhouse://user:password@host:9440/database",
}


def _check_same_file(settings: Settings, configuration: Any) -> None:
    """A destination of type duckdb under another name may have a file of its own configured."""
    named = getattr(getattr(configuration, "credentials", None), "database", None)
    if isinstance(named, str) and Path(named).resolve() != duckdb_file(settings):
        raise ConfigurationError(
            f"HIRINGCENTER_DESTINATION={settings.destination!r} is a DuckDB file, but its "
            f"credentials name a different file than HIRINGCENTER_DUCKDB_PATH. Set "
            f"HIRINGCENTER_DUCKDB_PATH to the file that analysts open, and leave out the "
            f"credentials of {settings.destination!r}."
        )


def duckdb_file(settings: Settings) -> Path:
    """The file that analysts open, with links resolved: publishing replaces the file, not the link.

    Raises:
        ConfigurationError: DuckDB can't use this path, or its links form a loop.
    """
    path = settings.duckdb_path
    _check_path(path)
    try:
        resolved = path.resolve()
        is_folder = resolved.is_dir()
    except (OSError, RuntimeError) as error:  # RuntimeError until Python 3.12
        raise ConfigurationError(
            f"HIRINGCENTER_DUCKDB_PATH={path}: this path can't be followed: its links form a "
            "loop, or one of its folders can't be read."
        ) from error
    if is_folder:
        raise ConfigurationError(
            f"HIRINGCENTER_DUCKDB_PATH={path}: this is a folder; name a file, such as "
            f"{path / 'hiringcenter.duckdb'}, or move the folder away."
        )
    _check_path(resolved)
    return resolved


@cache  # a run asks for its file ten times
def _check_path(path: Path) -> None:
    """DuckDB takes what follows a ? for options, a \\ for a slash, and a prefix for a service."""
    text = str(path)
    if found := [each for each in "?\\" if each in text]:
        reason = f"DuckDB can't use a path with {' or '.join(found)} in it"
    elif any(unicodedata.category(each) in ("Cc", "Cs") for each in text):
        reason = "it has control characters, or bytes that aren't UTF-8"
    elif any(re.fullmatch(_NO_FILE, part) for part in path.parts):
        reason = "it must be a file on this machine (for a service, see HIRINGCENTER_DESTINATION)"
    else:
        return
    raise ConfigurationError(f"HIRINGCENTER_DUCKDB_PATH={text!r}: {reason}. Set another path.")


@dataclass(frozen=True)
class SnapshotFacts:
    """What is known about the analysts' file without opening it. made_at: when it was last
    published; None if there is no file."""

    path: Path
    made_at: datetime | None

    def facts(self) -> dict[str, Any]:
        made_at = None if self.made_at is None else f"{self.made_at:%Y-%m-%dT%H:%M:%SZ}"
        return {"path": str(self.path), "published_at": made_at}

    def still(self) -> str:
        """A sentence for people, for when rows have landed that the copy lacks."""
        if self.made_at is None:
            return f"There is no copy at {self.path} yet"
        return f"The copy at {self.path} is still that of {self.made_at:%Y-%m-%d %H:%M:%S} UTC"


def snapshot_facts(settings: Settings) -> SnapshotFacts | None:
    """The facts about the settings' destination; None if readers use a server."""
    if not is_duckdb(settings):
        return None
    made_at = None
    with suppress(OSError):
        made_at = datetime.fromtimestamp(settings.duckdb_path.stat().st_mtime, UTC)
    return SnapshotFacts(settings.duckdb_path, made_at)


# --- labels of locations ------------------------------------------------------------------------
#
# A label is shown to people and is a key in the ledger. So one location has one label, however its
# credentials are written, and no two locations share one. dlt's own fingerprint doesn't do: it is a
# hash of the host alone on PostgreSQL, and of the token on MotherDuck.

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
    """A bucket and its path, and what else distinguishes buckets of the same name."""
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
