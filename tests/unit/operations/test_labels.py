"""One place, one name: however its credentials are written, and none of them in the name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs import PluggableRunContext

from connector.errors import ConfigurationError
from connector.logs import redact
from connector.settings import Settings
from pipelines.destination.identity import (
    destination_label,
    destination_type,
    label_of,
    pull_lock_name,
    work_paths,
)

SECRET = "s3cr3t-pass"
PG = "DESTINATION__POSTGRES__CREDENTIALS"
PARTS = {
    f"{PG}__HOST": "db.example.com", f"{PG}__PORT": "5432", f"{PG}__DATABASE": "sales",
    f"{PG}__USERNAME": "etl", f"{PG}__PASSWORD": SECRET,
}  # fmt: skip
SERVICE_ACCOUNT = {
    "type": "service_account",
    "project_id": "acme-data",
    "private_key": f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n",
    "client_email": "etl@acme-data.iam.gserviceaccount.com",
    "token_uri": "https://oauth2.googleapis.com/token",
}
BQ = "DESTINATION__BIGQUERY__CREDENTIALS"
FS = "DESTINATION__FILESYSTEM"
SALES = "postgres:db.example.com:5432/sales#hiringcenter"
LOCAL = "postgres:localhost:5432/sales#hiringcenter"

# (destination, environment, label)
SHAPES: dict[str, tuple[str, Mapping[str, str], str]] = {
    "URL": ("postgres", {PG: f"postgresql://etl:{SECRET}@db.example.com:5432/sales"}, SALES),
    "default port": ("postgres", {PG: f"postgres://etl:{SECRET}@DB.example.com./sales"}, SALES),
    "other scheme": (
        "postgres", {PG: f"postgresql+psycopg2://x:{SECRET}@db.example.com/sales"}, SALES,
    ),
    "URL with query": (
        "postgres",
        {PG: f"postgresql://etl@db.example.com/sales?password={SECRET}&sslmode=require"},
        SALES,
    ),
    "host in the query": (
        "postgres", {PG: f"postgresql://etl:{SECRET}@proxy/x?host=db.example.com&dbname=sales"},
        SALES,
    ),
    "parts": ("postgres", PARTS, SALES),
    "named": (
        "warehouse",
        {"DESTINATION__WAREHOUSE__DESTINATION_TYPE": "postgres",
         "DESTINATION__WAREHOUSE__CREDENTIALS": f"postgresql://etl:{SECRET}@db.example.com/sales"},
        SALES,
    ),
    "with its module": (
        "dlt.destinations.postgres", {PG: f"postgresql://etl:{SECRET}@db.example.com/sales"}, SALES,
    ),
    "for all destinations": (
        "postgres", {"DESTINATION__CREDENTIALS": f"postgresql://e:{SECRET}@db.example.com/sales"},
        SALES,
    ),
    "other port": (
        "postgres", {PG: f"postgresql://etl:{SECRET}@db.example.com:5433/sales"},
        "postgres:db.example.com:5433/sales#hiringcenter",
    ),
    "other database": (
        "postgres", {PG: f"postgresql://etl:{SECRET}@db.example.com/Sales"},
        "postgres:db.example.com:5432/Sales#hiringcenter",
    ),
    "localhost": ("postgres", {PG: f"postgresql://etl:{SECRET}@localhost/sales"}, LOCAL),
    "127.0.0.1": ("postgres", {PG: f"postgresql://etl:{SECRET}@127.0.0.1:5432/sales"}, LOCAL),
    "::1": ("postgres", {PG: f"postgresql://etl:{SECRET}@[::1]:5432/sales"}, LOCAL),
    "IPv4 in IPv6": (
        "postgres", {PG: f"postgresql://etl:{SECRET}@[::ffff:127.0.0.1]/sales"}, LOCAL,
    ),
    "packaged socket": (
        "postgres", {PG: f"postgresql://etl:{SECRET}@x/sales?host=/var/run/postgresql"}, LOCAL,
    ),
    "own socket": (
        "postgres", {PG: f"postgresql://etl:{SECRET}@localhost/sales?host=/srv/pg/one"},
        "postgres:/srv/pg/one:5432/sales#hiringcenter",
    ),
    "IPv6": (
        "postgres", {PG: f"postgresql://etl:{SECRET}@[2001:DB8:0::7]:5432/sales"},
        "postgres:[2001:db8::7]:5432/sales#hiringcenter",
    ),
    "redshift": (
        "redshift",
        {"DESTINATION__REDSHIFT__CREDENTIALS": f"redshift://etl:{SECRET}@rs.example.com/dev"},
        "redshift:rs.example.com:5439/dev#hiringcenter",
    ),
    "service account": (
        "bigquery", {BQ: json.dumps(SERVICE_ACCOUNT)}, "bigquery:acme-data#hiringcenter",
    ),
    "sorted service account": (
        "bigquery", {BQ: json.dumps(SERVICE_ACCOUNT, sort_keys=True, indent=1)},
        "bigquery:acme-data#hiringcenter",
    ),
    "motherduck": (
        "motherduck",
        {"DESTINATION__MOTHERDUCK__CREDENTIALS": f"md:sales?motherduck_token={SECRET}"},
        "motherduck:sales#hiringcenter",
    ),
    "snowflake": (
        "snowflake",
        {"DESTINATION__SNOWFLAKE__CREDENTIALS":
         f"snowflake://etl:{SECRET}@acme-eu1/SALES?warehouse=wh&role=r"},
        "snowflake:acme-eu1/sales#hiringcenter",
    ),
    "databricks": (
        "databricks",
        {"DESTINATION__DATABRICKS__CREDENTIALS__SERVER_HOSTNAME": "https://adb-1.azure.net/",
         "DESTINATION__DATABRICKS__CREDENTIALS__CATALOG": "main",
         "DESTINATION__DATABRICKS__CREDENTIALS__ACCESS_TOKEN": SECRET,
         "DESTINATION__DATABRICKS__CREDENTIALS__HTTP_PATH": "/sql/1"},
        "databricks:adb-1.azure.net/main#hiringcenter",
    ),
    "bucket": (
        "filesystem",
        {f"{FS}__BUCKET_URL": f"s3://key:{SECRET}@bucket/path//to/",
         f"{FS}__CREDENTIALS__AWS_ACCESS_KEY_ID": "AKIA0",
         f"{FS}__CREDENTIALS__AWS_SECRET_ACCESS_KEY": SECRET},
        "filesystem:s3://bucket/path/to#hiringcenter",
    ),
    "bucket of MinIO": (
        "filesystem",
        {f"{FS}__BUCKET_URL": "s3://bucket/path",
         f"{FS}__CREDENTIALS__ENDPOINT_URL": "http://127.0.0.1:9000",
         f"{FS}__CREDENTIALS__AWS_ACCESS_KEY_ID": "AKIA0",
         f"{FS}__CREDENTIALS__AWS_SECRET_ACCESS_KEY": SECRET},
        "filesystem:s3://bucket/path at localhost:9000#hiringcenter",
    ),
    "mysql": (
        "sqlalchemy",
        {"DESTINATION__SQLALCHEMY__CREDENTIALS": f"mysql+pymysql://etl:{SECRET}@db/sales"},
        "sqlalchemy:mysql:db:3306/sales#hiringcenter",
    ),
}  # fmt: skip


def settings(destination: str, folder: Path) -> Settings:
    return Settings(destination=destination, state_dir=folder / "state")


@pytest.mark.parametrize("shape", SHAPES)
def test_label_lock_and_folder_of_every_shape(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shape: str
):
    """By type, server, port and database; project; bucket and path; catalog; and the dataset."""
    destination, environment, label = SHAPES[shape]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    configured = settings(destination, tmp_path)
    assert destination_label(configured) == label
    assert pull_lock_name(configured) == f"pull into {label}"
    assert work_paths(configured).work_dir == places_of(label, tmp_path)
    assert destination_type(configured) == label.partition(":")[0]
    assert redact(f"failed: {SECRET!r}") == "failed: '***'"


def places_of(label: str, folder: Path) -> Path:
    """The folder that all shapes of one label share, and no other label has."""
    from pipelines.destination.identity import work_folder

    return folder / "state" / "work" / work_folder("hiringcenter", label)


def test_secrets_toml_names_the_same_place(tmp_path: Path):
    """dlt's own file in the project, with a section for the pipeline as well."""
    (tmp_path / ".dlt").mkdir()
    file = tmp_path / ".dlt" / "secrets.toml"
    context = Container()[PluggableRunContext]
    try:
        for section in ("destination.postgres", "hiringcenter.destination.postgres"):
            file.write_text(
                f'[{section}.credentials]\nhost = "db.example.com"\ndatabase = "sales"\n'
                f'username = "etl"\npassword = "{SECRET}"\n'
            )
            context.reload_providers()
            assert destination_label(settings("postgres", tmp_path)) == SALES
    finally:
        file.unlink()
        context.reload_providers()


def test_different_locations_never_share_a_label():
    """Hosts, ports, databases, projects, accounts, endpoints: one each is enough to differ."""
    places = [
        ("postgres", {"credentials": {"host": host, "port": port, "database": database}})
        for host in ("a", "b", "/srv/one", "/srv/two", "::2", "127.0.0.1")
        for port in (5432, 5433)
        for database in ("x", "y")
    ]
    places += [("redshift", configuration) for _, configuration in places]
    places += [("bigquery", {"project_id": project}) for project in ("p", "q")]
    places += [("motherduck", {"credentials": {"database": name}}) for name in ("p", "q")]
    places += [
        ("filesystem", {"bucket_url": url, "credentials": {"azure_storage_account_name": account}})
        for url in ("az://one/x", "az://one/y", "az://two/x")
        for account in ("east", "west")
    ]
    places += [
        ("ducklake", {"credentials": {"catalog": {"drivername": "postgres", "host": "a",
                                                  "database": "x"}, "ducklake_name": name}})
        for name in ("p", "q")
    ]  # fmt: skip
    labels = [label_of(kind, configuration) for kind, configuration in places]
    assert None not in labels
    assert len(set(labels)) == len(places)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "127.0.0.1", "127.8.0.1", "127.1", "::1", "[::1]",
             "0.0.0.0", "::ffff:127.0.0.1", "%2Fvar%2Frun%2Fpostgresql", "/tmp", "ip6-localhost"],
)  # fmt: skip
def test_loopback_has_one_name(host: str):
    """The same server, whichever way it is reached from its own machine."""
    configuration = {"credentials": {"host": host, "database": "d"}}
    assert label_of("dlt.destinations.postgres", configuration) == "postgres:localhost:5432/d"


def test_a_location_that_is_not_configured_is_an_error_that_names_the_variable(tmp_path: Path):
    """Never a shared name such as `configured`, under which two servers would be one."""
    with pytest.raises(ConfigurationError, match="DESTINATION__POSTGRES__CREDENTIALS"):
        destination_label(settings("postgres", tmp_path))


@pytest.mark.parametrize(
    "value", [f"no url {SECRET}", f"postgresql://u:{SECRET}@h:port/d", f'{{"{SECRET}']
)
def test_credentials_that_can_not_be_read_are_not_quoted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str
):
    """dlt's own messages may hold the value."""
    monkeypatch.setenv(PG, value)
    with pytest.raises(ConfigurationError) as failure:
        destination_label(settings("postgres", tmp_path))
    assert SECRET not in str(failure.value)
    assert PG in str(failure.value)


def test_a_destination_of_type_duckdb_is_the_published_file_whatever_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """By type, not by name; a second file in its credentials is refused."""
    monkeypatch.setenv("DESTINATION__MINE__DESTINATION_TYPE", "duckdb")
    mine = settings("mine", tmp_path).model_copy(update={"duckdb_path": tmp_path / "x.duckdb"})
    duckdb = mine.model_copy(update={"destination": "duckdb"})
    assert destination_label(mine) == destination_label(duckdb)
    assert pull_lock_name(mine) == pull_lock_name(duckdb)
    monkeypatch.setenv("DESTINATION__MINE__CREDENTIALS", str(tmp_path / "y.duckdb"))
    with pytest.raises(ConfigurationError, match="HIRINGCENTER_DUCKDB_PATH"):
        destination_label(mine)


def test_a_link_to_the_file_is_the_file(tmp_path: Path):
    """A chain of links, also where the file isn't there yet: one label, lock and folder."""
    (tmp_path / "real").mkdir()
    (tmp_path / "one.duckdb").symlink_to(tmp_path / "two.duckdb")
    (tmp_path / "two.duckdb").symlink_to("real/file.duckdb")
    linked, direct = (
        Settings(duckdb_path=path, state_dir=tmp_path)
        for path in (tmp_path / "one.duckdb", tmp_path / "real" / "file.duckdb")
    )
    assert destination_label(linked) == destination_label(direct)
    assert work_paths(linked) == work_paths(direct)


def test_links_in_a_circle_are_a_clear_error(tmp_path: Path):
    """Not a traceback of pathlib's."""
    (tmp_path / "a.duckdb").symlink_to("b.duckdb")
    (tmp_path / "b.duckdb").symlink_to("a.duckdb")
    with pytest.raises(ConfigurationError, match="circle"):
        destination_label(Settings(duckdb_path=tmp_path / "a.duckdb", state_dir=tmp_path))


def test_long_names_fit_into_the_ledger_and_stay_apart(tmp_path: Path):
    """PostgreSQL refuses what is longer than the column."""
    labels, locks = set(), set()
    for name in ("x" * 200 + "/a", "x" * 200 + "/b"):
        path = tmp_path / ("d" * 200) / name
        one = Settings(duckdb_path=path, state_dir=tmp_path)
        labels.add(destination_label(one))
        locks.add(pull_lock_name(one))
    assert len(labels) == len(locks) == 2
    assert max(map(len, labels)) <= 512
    assert max(map(len, locks)) <= 256


def test_specifications_and_mappings_are_read_alike():
    """dlt's resolved specification has attributes."""
    credentials = SimpleNamespace(host="h", port=None, database="d", query=None)
    configuration: Any = SimpleNamespace(credentials=credentials)
    assert label_of("postgres", configuration) == "postgres:h:5432/d"
