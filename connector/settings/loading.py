"""Reading settings from flags, environment, `.env` and TOML, and refusing unknown names."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from dotenv import dotenv_values
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from connector.errors import BadSetting, ConfigurationError, UnknownAccount, UnknownSetting, nearest
from connector.settings.folders import CONFIG_FILE, Project, open_project
from connector.settings.tree import (
    PREFIX,
    Account,
    Section,
    Settings,
    WrittenSettings,
    parse_secrets,
)

VENDOR_HOST = "api.hiringcenterpro.com"
_OPEN_ENDED = tuple(
    f"{PREFIX}{name}" for name in ("PUSH__", "ACCOUNTS__", "API_KEY_", "WEBHOOK_SECRETS_")
)
_VARIABLES = ("api_key_env", "webhook_secrets_env")  # of an account: names of variables
S = TypeVar("S", bound=Section)


class _Sources(BaseSettings, WrittenSettings):
    """The settings as written by people, merged from all sources."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        case_sensitive=True,  # in the file: otherwise `[HTTP]` would be taken for `[http]`
    )


class _DotEnv(EnvSettingsSource):
    """The variables of `.env`, which is read once: python-dotenv warns about a malformed line each
    time. An empty environment variable hides the one in the file; a name without `=` sets nothing.
    """

    def __init__(self, variables: Mapping[str, str | None]) -> None:
        self._variables = variables
        super().__init__(_Sources, case_sensitive=False)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {
            name.lower(): text
            for name, text in self._variables.items()
            if text and name.upper() not in os.environ
        }


def load(
    config: Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    project: Path | None = None,
) -> Settings:
    """All settings, merged and checked; paths are relative to the project.

    config: a TOML file to read instead of the project's. project: its folder; by default the
    nearest one upwards.

    Raises:
        UsageError: `project` isn't a folder.
        UntrustedFile: another user may have written a settings file in the working folder.
        UnknownSetting: a name that the connector doesn't know.
        BadSetting: a value that can't be used.
        ConfigurationError: the TOML file is missing or unreadable.
    """
    found = open_project(project)
    found = replace(found, variables=_read_dotenv(found.dotenv))
    config = config or found.config
    location = str(config or CONFIG_FILE)
    toml = _read_toml(config)
    accounts = toml.get("accounts")
    own_keys = {
        str(account.get(name, "")).upper()
        for account in (accounts.values() if isinstance(accounts, Mapping) else ())
        if isinstance(account, Mapping)
        for name in _VARIABLES
    }
    _check_names(found.variables, str(found.dotenv), own_keys)
    _check_names(os.environ, "environment", own_keys)
    try:
        sources = (
            InitSettingsSource(_Sources, dict(overrides or {})),
            EnvSettingsSource(_Sources, case_sensitive=False),
            _DotEnv(found.variables),
            InitSettingsSource(_Sources, toml),
        )
        merged = _Sources(_build_sources=(sources, {}))  # type: ignore[call-arg]
    except ValidationError as error:
        raise _refusal(error, toml, location) from None
    except SettingsError as error:
        raise ConfigurationError(f"environment or .env: {error}. Write a list as JSON.") from None
    written = {name: getattr(merged, name) for name in WrittenSettings.model_fields}
    settings = _in_project(Settings(**written), found)
    notes = tuple(
        f"accounts.{name}: api_key_env = {account.api_key_env!r} is deprecated: only this version "
        f"still reads it. Name the variable {PREFIX}API_KEY_{name.upper()}."
        for name, account in settings.accounts.items()
        if not account.api_key_env.upper().startswith(PREFIX)
    )
    noted = replace(found, notes=found.notes + notes)
    settings = settings.model_copy(update={"project": noted})
    _check_accounts(settings, _all_locations(location))
    return settings


def _read_toml(config: Path | None) -> dict[str, Any]:
    """The file's tables, by names as they are written; it may be a pipe."""
    try:
        return {} if config is None else tomllib.loads(config.read_bytes().decode())
    except FileNotFoundError:
        raise ConfigurationError(f"{config}: no such file. Check --config.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{config}: can't be read as TOML: {error}.") from None


def _read_dotenv(path: Path | None) -> Mapping[str, str | None]:
    try:
        return {} if path is None else dotenv_values(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: can't be read: {error}.") from None


# --- unknown names --------------------------------------------------------------------------


def _check_names(variables: Mapping[str, Any], location: str, own_keys: set[str]) -> None:
    """HIRINGCENTER_API_KEY_<account> may be set even if the settings define no such account."""
    known = {f"{PREFIX}{name}".upper() for name in _variables_of(WrittenSettings)} | own_keys
    for name in map(str.upper, variables):
        if name.startswith(PREFIX) and name not in known and not name.startswith(_OPEN_ENDED):
            raise UnknownSetting(name=name, location=location, nearest=nearest(name, known))


def _variables_of(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _variables_of(field.annotation, f"{prefix}{name}__")


def _refusal(error: ValidationError, toml: Mapping[str, Any], location: str) -> ConfigurationError:
    """The first unknown name, or else the first value that can't be used."""
    found = error.errors(include_input=False, include_url=False)
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    *above, name = (str(part) for part in first["loc"])
    path = ".".join(above)
    if first["type"] == "extra_forbidden":
        location = location if _has(toml, [*above, name]) else "environment or .env"
        location = f"{location} [{path}]" if above else location
        known = _section_at(above).model_fields
        return UnknownSetting(name=name, location=location, nearest=nearest(name, known))
    reason = first["msg"].removeprefix("Value error, ")
    return BadSetting(
        name=f"{path}.{name}".lstrip("."), location=_all_locations(location), reason=reason
    )


def _has(inner: Any, path: Iterable[str]) -> bool:
    """Whether nested tables have a value at `path`."""
    for name in path:
        if not isinstance(inner, Mapping) or name not in inner:
            return False
        inner = inner[name]
    return True


def _section_at(path: list[str]) -> type[BaseModel]:
    section: type[BaseModel] = WrittenSettings
    for name in path:
        if name in section.model_fields:  # else the name of a job or an account
            annotation = section.model_fields[name].annotation
            section = (get_args(annotation) or (annotation,))[-1]  # of dict[str, PushJob]: PushJob
    return section


def _all_locations(config: str) -> str:
    return f"settings ({config}, .env, environment)"


# --- projects and accounts ------------------------------------------------------------------


def _in_project(section: S, project: Project) -> S:
    """`section` with its relative paths resolved in the project."""
    changes: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Path):
            changes[name] = project.path(value)
        elif isinstance(value, Section):
            changes[name] = _in_project(value, project)
        elif isinstance(value, dict):  # of jobs, of accounts
            changes[name] = {key: _in_project(each, project) for key, each in value.items()}
    return section.model_copy(update=changes)


def _check_accounts(settings: Settings, location: str) -> None:
    """Accounts can't share tables: a full scan of one would flag another's rows deleted."""
    for name, job in settings.push.items():
        if job.account is not None and job.account not in settings.accounts:
            reason = f"there is no [accounts.{job.account}]"
            raise BadSetting(name=f"push.{name}.account", location=location, reason=reason)
    owners: dict[tuple[str, ...], str] = {}
    for name in settings.accounts:
        own = account_settings(settings, name)
        file = (str(own.duckdb_path.absolute()),) if own.destination == "duckdb" else ()
        other = owners.setdefault((own.destination, own.dataset.lower(), *file), name)
        if other != name:
            reason = (
                f"it shares its tables with {other!r}. Give each its own duckdb_path or dataset, "
                "or remove both settings: each account then gets its own."
            )
            raise BadSetting(name=f"accounts.{name}", location=location, reason=reason)
    for (kind, dataset, *place), name in owners.items():
        for ending in ("_marts", "_staging"):
            if met := owners.get((kind, f"{dataset}{ending}", *place)):
                reason = (
                    f"the {ending[1:]} of {name!r} would be among its tables: rename its dataset"
                )
                raise BadSetting(name=f"accounts.{met}", location=location, reason=reason)


def account_settings(settings: Settings, name: str) -> Settings:
    """`settings` for account `name`: its key, and its own URLs and paths where it names any.

    Raises:
        UnknownAccount: no `[accounts.<name>]`.
    """
    if name not in settings.accounts:
        raise UnknownAccount(name=name, known=settings.accounts)
    account = settings.accounts[name]
    own = {
        field: value
        for field in Account.model_fields
        if field not in _VARIABLES and (value := getattr(account, field)) is not None
    }
    if account.dataset is None and account.duckdb_path is None:
        own["dataset"] = f"{settings.dataset}_{name}"
        own["duckdb_path"] = settings.duckdb_path.with_stem(f"{settings.duckdb_path.stem}_{name}")
    variables = {**settings.project.variables, **os.environ}
    key = variables.get(account.api_key_env)
    own["api_key"] = SecretStr(key) if key else None
    own["webhook_secrets"] = _secrets_in(variables, account.webhook_secrets_env)
    return settings.model_copy(update={**own, "account": name})


def _secrets_in(variables: Mapping[str, str | None], name: str | None) -> tuple[SecretStr, ...]:
    """The secrets in an account's own variable.

    Raises:
        BadSetting: one of them is empty.
    """
    text = variables.get(name) if name else None
    if not text:
        return ()
    try:
        return tuple(map(SecretStr, parse_secrets(text)))
    except ValueError as error:
        raise BadSetting(
            name=str(name), location="environment or .env", reason=str(error)
        ) from None
