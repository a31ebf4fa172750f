"""dlt as a library inside a command: its options are pinned; no telemetry, signals or chatter.

dlt fills every option that code leaves open from the environment and from `.dlt/*.toml`, bare names
included: `DEV_MODE=true`, set for something else, would load each pull into a schema of its own.
Within `own_configuration` it finds there only *where* rows are loaded: credentials, hosts, buckets,
catalogs, under `destination.`. *How* they are loaded is decided here.
"""

from __future__ import annotations

import os
import re
import threading
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dlt
from dlt.common.configuration import inject_section
from dlt.common.configuration.container import Container
from dlt.common.configuration.providers.provider import ConfigProvider
from dlt.common.configuration.providers.toml import TomlProviderReadException
from dlt.common.configuration.specs import PluggableRunContext
from dlt.common.configuration.specs.base_configuration import BaseConfiguration, is_secret_hint
from dlt.common.configuration.specs.config_section_context import ConfigSectionContext
from dlt.common.configuration.utils import get_resolved_traces

from connector.errors import ConfigurationError
from connector.logs import get_logger, hide
from pipelines.destination.loader import PIPELINE_NAME

_log = get_logger("load")

_HOW: dict[str, Any] = {
    "runtime.dlthub_telemetry": False,
    "runtime.intercept_signals": False,  # signals are ours
    "runtime.log_level": "CRITICAL",
    "enable_runtime_trace": False,  # it keeps personal data
    "load.delete_completed_jobs": True,
    "load.auto_abort_on_terminal_error": True,
    "load.raise_on_failed_jobs": True,
}
_WHERE = """
    destination_type bucket_url location project_id host port database query_result_bucket
    athena_work_group aws_data_catalog db_location catalog_type branch_name lance_uri qd_location
    qd_path connection_type staging_iam_role namespace_name https prefix grpc_port
"""
_CREDENTIALS = """
    database catalog host port http_port grpc_port secure drivername driver query url uri path
    location storage bucket_url ducklake_name metadata_schema project_id region region_name
    endpoint_url s3_url_style host_override server_hostname http_path warehouse role
    azure_storage_account_name azure_account_host hf_endpoint connect_timeout
    username password token type api_key access_token auth_token refresh_token scopes
    client_id client_secret client_email client_type token_uri auth_uri authenticator
    workload_identity_provider private_key private_key_id private_key_path private_key_passphrase
    aws_access_key_id aws_secret_access_key aws_session_token profile_name s3_extra_credentials
    azure_storage_account_key azure_storage_sas_token azure_tenant_id azure_client_id
    azure_client_secret hf_token storage_options embedding_model_provider_api_key
    sftp_port sftp_username sftp_password sftp_pkey sftp_key_filename sftp_key_passphrase
    sftp_allow_agent sftp_look_for_keys sftp_gss_auth sftp_gss_kex sftp_gss_deleg_creds
    sftp_gss_host sftp_gss_trust_dns
"""
_SECRET_PARAMETER = re.compile(r"(?i)pass|token|secret|key")
_lock = threading.Lock()
_users = 0
_replaced: Sequence[ConfigProvider] = ()


def is_location(key: str, sections: Sequence[str]) -> bool:
    """Whether dlt's option `key` in `sections` says where rows go, or with which credentials."""
    if not sections or sections[0] != "destination":
        return bool(sections) and sections[0] == "providers"  # vaults that hold credentials
    if "credentials" in sections[1:]:
        return key in _CREDENTIALS.split()
    return key == "credentials" or key in _WHERE.split()


class _Pinned(ConfigProvider):
    """The options that are pinned here; asked before all other providers."""

    name = "hiringcenter"
    supports_secrets = True
    supports_sections = True

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def get_value(
        self,
        key: str,
        hint: type[Any],  # noqa: ARG002 - dlt's signature
        pipeline_name: str | None,  # noqa: ARG002
        *sections: str,
    ) -> tuple[Any | None, str]:
        name = ".".join((*sections, key))
        return self._values.get(name), name


def _of_inner(name: str) -> Any:
    return property(lambda self: getattr(self.inner, name))


class _LocationsOnly(ConfigProvider):
    """One of dlt's providers (environment, `.dlt/secrets.toml`, …), asked only for locations."""

    name = _of_inner("name")
    supports_secrets = _of_inner("supports_secrets")
    supports_sections = _of_inner("supports_sections")
    is_empty = _of_inner("is_empty")
    locations = _of_inner("locations")
    present_locations = _of_inner("present_locations")
    get_value_location = _of_inner("get_value_location")

    def __init__(self, inner: ConfigProvider) -> None:
        self.inner = inner
        self._ignored: set[str] = set()

    def get_value(
        self, key: str, hint: type[Any], pipeline_name: str | None, *sections: str
    ) -> tuple[Any | None, str]:
        if is_location(key, sections):
            return self.inner.get_value(key, hint, pipeline_name, *sections)
        name = ".".join((*sections, key))
        if len(sections) > 1 and sections[0] == "destination" and name not in self._ignored:
            if self.inner.get_value(key, hint, pipeline_name, *sections)[0] is not None:
                _log.info("load.option_ignored", option=name, provider=self.inner.name)
            self._ignored.add(name)
        return None, name


@contextmanager
def own_configuration(*, job_tries: int = 5, workers: int = 4) -> Iterator[None]:
    """Within the block, dlt uses our options. May be nested; threads share it.

    job_tries: how often a job is tried within one load. workers: jobs at the same time. The
    outermost caller's values apply.
    """
    global _users, _replaced  # like dlt's own providers
    with _lock:
        if not _users:
            own = {"load.raise_on_max_retries": job_tries, "load.workers": workers}
            _replaced = _take_over({**_HOW, **own})
        _users += 1
    traces = get_resolved_traces()  # they hold frames, and with them every loaded row
    traces.logging_enabled = False
    traces.clear()
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                Container()[PluggableRunContext].providers.providers[:] = _replaced


def _take_over(how: Mapping[str, Any]) -> list[ConfigProvider]:
    """Replace dlt's providers with ours; returns dlt's."""
    container, first = Container(), _Pinned(how)
    if PluggableRunContext in container:
        context = container[PluggableRunContext]
        before = list(context.providers.providers)
    else:  # dlt starts telemetry, Sentry and so on once, when options are first asked for
        context = run_context()
        before = list(context.providers.providers)
        context.providers.providers[:] = [first, *map(_LocationsOnly, before)]
        container[PluggableRunContext] = context
        before += context.providers.providers[1 + len(before) :]  # vaults
    context.providers.providers[:] = [first, *map(_LocationsOnly, before)]
    context.initialize_runtime()
    return before


def run_context() -> PluggableRunContext:
    """dlt's context, which reads `.dlt/config.toml` and `.dlt/secrets.toml`, also from the home."""
    try:
        return PluggableRunContext()
    except TomlProviderReadException as error:
        raise _unreadable([*map(Path, error.full_paths)]) from error


def _unreadable(paths: Sequence[Path]) -> ConfigurationError:
    """An error that names dlt's file and line, without dlt's message, which quotes the file."""
    for path in filter(Path.is_file, map(Path.absolute, paths)):
        line = None
        try:
            text = path.read_text(encoding="utf-8")
            tomllib.loads(text)
        except OSError as error:
            reason = f"can't be read: {os.strerror(error.errno or 0)}"
        except UnicodeDecodeError as error:
            line, reason = error.object[: error.start].count(b"\n") + 1, "isn't UTF-8"
        except tomllib.TOMLDecodeError as error:
            found = re.search(r"at line (\d+)", str(error))
            line = int(found[1]) if found else text.count("\n") + 1
            reason = "isn't valid TOML"
        except RecursionError:
            reason = "is nested too deeply"
        else:
            continue
        where = str(path) if line is None else f"{path}, line {line}"
        return ConfigurationError(f"{where}: {reason}. dlt reads this file; correct or remove it.")
    listed = " or ".join(map(str, paths))
    return ConfigurationError(f"{listed}: dlt can't read this file. Correct or remove it.")


def resolved_destination(name: str) -> tuple[Any, Any]:
    """(dlt's destination, its configuration as far as it is set); hides secrets from the logs.

    Raises:
        Exception: of any kind, from dlt or from a library of the destination.
    """
    with own_configuration(), inject_section(ConfigSectionContext(pipeline_name=PIPELINE_NAME)):
        destination = dlt.destination(name)
        configuration = destination.configuration(destination.spec(), accept_partial=True)
    _hide_secrets(configuration)
    return destination, configuration


def _hide_secrets(configuration: Any) -> None:
    for name, hint in configuration.get_resolvable_fields().items():
        value = getattr(configuration, name, None)
        if isinstance(value, BaseConfiguration):
            _hide_secrets(value)
        elif isinstance(value, str) and is_secret_hint(hint):
            hide(value)
        elif name == "query" and isinstance(value, Mapping):
            for each, text in value.items():
                if _SECRET_PARAMETER.search(each):
                    hide(str(text))


def make_pipeline(destination: Any, dataset: str, pipelines_dir: Path) -> dlt.Pipeline:
    """The one dlt pipeline of a destination, working below `pipelines_dir`.

    Call this, and use the pipeline, only within `own_configuration`.
    """
    return dlt.pipeline(
        PIPELINE_NAME,
        destination=destination,
        dataset_name=dataset,
        pipelines_dir=str(pipelines_dir),
    )
