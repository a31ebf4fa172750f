"""dlt's configuration says where rows go, never how: tried with every option dlt can resolve."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dlt
import pytest
from dlt.common.configuration import resolve_configuration
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs import PluggableRunContext
from dlt.common.configuration.specs.base_configuration import (
    BaseConfiguration,
    ContainerInjectableContext,
    CredentialsConfiguration,
)

from connector.errors import ConfigurationError
from pipelines.destination.dlt_options import is_location, own_configuration, run_context
from tests.dlt_options import HARMFUL, harmful_environment, specs

DESTINATIONS = ("postgres", "filesystem", "bigquery", "snowflake", "duckdb", "warehouse")
SECTIONS: tuple[tuple[str, ...], ...] = (
    (), ("load",), ("normalize",), ("extract",), ("schema",), ("data_writer",), ("runtime",),
    ("pipelines", "hiringcenter"), ("sources", "hiringcenter"), ("sources",), ("destination",),
    *(("destination", name) for name in DESTINATIONS),
)  # fmt: skip
HOW_OF_CREDENTIALS = """
    application aws_sts_token_expiration_hours azure_sas_token_expiration_hours
    azure_sas_token_permissions additional_headers client_config client_encoding conn_pool
    connection_parameters custom_user_agent engine_args engine_kwargs extensions global_config
    http_headers local_config managed_engine pragmas read_consistency_interval read_only
    send_receive_timeout session_configuration session_timezone sftp_auth_strategy
    sftp_auth_timeout sftp_banner_timeout sftp_channel_timeout sftp_compress
    sftp_disabled_algorithms sftp_sock sftp_timeout sftp_transport_factory socket_timeout
    statements user_agent_entry
"""


def resolved(spec: type[BaseConfiguration], sections: tuple[str, ...]) -> dict[str, Any]:
    """What dlt makes of `spec` in `sections`, as text; places and contexts aside."""
    config = resolve_configuration(spec(), sections=sections, accept_partial=True)
    return {
        name: repr(value)
        for name, value in config.as_dict().items()
        if not isinstance(value, BaseConfiguration)
        and not (is_location(name, sections) or name == "credentials")
    }


def resolved_in_all(spec: type[BaseConfiguration]) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for sections in SECTIONS:
        try:
            found[sections] = resolved(spec, sections)
        except Exception as error:  # noqa: BLE001 - the same failure with and without isn't a change
            found[sections] = type(error).__name__
    return found


PLAIN = [
    spec
    for spec in specs()
    if not issubclass(spec, ContainerInjectableContext | CredentialsConfiguration)
    and not spec.__name__.startswith("Lance")  # downloads models
]


def test_no_option_of_dlt_reaches_our_pipeline(monkeypatch: pytest.MonkeyPatch):
    """Each of several hundred options, bare and in every section: resolved as if it weren't set."""
    with own_configuration():
        before = {spec: resolved_in_all(spec) for spec in PLAIN}
        harmful_environment(monkeypatch, SECTIONS)
        changed = [spec.__name__ for spec in PLAIN if resolved_in_all(spec) != before[spec]]
    assert len(PLAIN) > 40
    assert changed == []


def test_the_same_options_do_reach_other_pipelines(monkeypatch: pytest.MonkeyPatch):
    """What the test before proves is that ours is shielded, not that nothing was set; and the
    shield ends with our pipeline."""
    with own_configuration():
        pass
    harmful_environment(monkeypatch, SECTIONS)
    assert dlt.config.get("dev_mode") == HARMFUL["dev_mode"]
    with own_configuration():
        assert dlt.config.get("dev_mode") is None


def test_every_field_of_credentials_is_known_as_location_or_not():
    """A new version of dlt with a new field: it has to be classified."""
    fields = {
        name
        for spec in specs()
        if issubclass(spec, CredentialsConfiguration)
        for name in spec.get_resolvable_fields()
        if not name.startswith("_")
    }
    unknown = {
        name for name in fields if not is_location(name, ("destination", "x", "credentials"))
    }
    assert unknown == set(HOW_OF_CREDENTIALS.split()) & fields


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DESTINATION__POSTGRES__CREDENTIALS", "postgresql://u:p@h:5433/d"),
        ("DESTINATION__CREDENTIALS", "postgresql://u:p@h:5433/d"),
        ("DESTINATION__POSTGRES__CREDENTIALS__HOST", "h"),
        ("DESTINATION__FILESYSTEM__BUCKET_URL", "s3://bucket"),
        ("DESTINATION__BIGQUERY__LOCATION", "EU"),
        ("DESTINATION__WAREHOUSE__DESTINATION_TYPE", "postgres"),
    ],
)
def test_credentials_and_locations_are_found(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    """The dlt way of saying where rows go stays open."""
    monkeypatch.setenv(name, value)
    with own_configuration():
        assert dlt.config.get(name.lower().replace("__", ".")) == value


def test_files_are_shielded_as_well(tmp_path: Any):
    """`.dlt/config.toml` in the working folder."""
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / "config.toml").write_text(
        'dev_mode = true\n[destination.filesystem]\nlayout = "{file_id}"\nbucket_url = "s3://b"\n'
    )
    context = Container()[PluggableRunContext]
    context.reload_providers()
    try:
        with own_configuration():
            assert dlt.config.get("dev_mode") is None
            assert dlt.config.get("destination.filesystem.layout") is None
            assert dlt.config.get("destination.filesystem.bucket_url") == "s3://b"
        assert dlt.config.get("dev_mode") is True
    finally:
        (tmp_path / ".dlt" / "config.toml").unlink()
        context.reload_providers()


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"good = 1\n[destination]\npassword = hush\n", ", line 3: isn't valid TOML"),
        (b"good = 1\n[hush", ", line 2: isn't valid TOML"),
        (b"hush = 1\nhush = 1\n", ", line 2: isn't valid TOML"),
        (b'a = 1\nhush = "\xff"\n', ", line 2: isn't UTF-8"),
    ],
)
@pytest.mark.parametrize("name", ["config.toml", "secrets.toml"])
def test_a_broken_file_of_dlts_is_named_with_its_line(
    tmp_path: Path, name: str, content: bytes, where: str
):
    """Exit 2; what stands there isn't quoted."""
    file = tmp_path / ".dlt" / name
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"{re.escape(name + where)}") as raised:
        run_context()
    assert str(tmp_path) in str(raised.value)
    assert "hush" not in str(raised.value)
    assert raised.value.exit_code == 2
