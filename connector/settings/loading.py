"""Reading the places settings come from, strongest first, and refusing what isn't known."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from dotenv import dotenv_values
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import EnvSettingsSource

from connector.errors import BadSetting, ConfigurationError, UnknownAccount, UnknownSetting, nearest
from connector.settings.project import CONFIG_FILE, Project, open_project
from connector.settings.tree import PREFIX, Account, PushJob, Settings

VENDOR_HOST = "api.hiringcenterpro.com"
_RUN_BY_US = ("account", "project")  # fields of Settings that are no settings


class _MergedEnvironment(EnvSettingsSource):
    """pydantic-settings' parser of environment names over `.env` and the environment at once."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = {name.lower(): value for name, value in variables.items()}
        super().__init__(Settings, env_ignore_empty=True)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name: value for name, value in self._variables.items() if value != ""}


_NAMED_SECTIONS: dict[str, type[BaseModel]] = {"push": PushJob, "accounts": Account}


def _is_section(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _known_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if model is Settings and name in _RUN_BY_US:
            continue
        annotation = field.annotation
        if _is_section(annotation):
            yield from _known_names(annotation, f"{prefix}{name}__")
        yield f"{prefix}{name}"


def _check_variables(variables: Mapping[str, str], place: str, own_keys: set[str]) -> None:
    """HIRINGCENTER_API_KEY_<account> may be set where the settings in use know no such account."""
    known = {f"{PREFIX}{name}".upper() for name in _known_names(Settings)} | own_keys
    open_ended = (f"{PREFIX}PUSH__", f"{PREFIX}ACCOUNTS__", f"{PREFIX}API_KEY_")
    for name in variables:
        if name.upper() not in known and not name.upper().startswith(open_ended):
            raise UnknownSetting(name=name, place=place, nearest=nearest(name.upper(), known))


def _check_table(table: Mapping[str, Any], model: type[BaseModel], place: str) -> None:
    known = [name for name in model.model_fields if model is not Settings or name not in _RUN_BY_US]
    for name, value in table.items():
        if name not in known:
            raise UnknownSetting(name=name, place=place, nearest=nearest(name, known))
        annotation = model.model_fields[name].annotation
        named = _NAMED_SECTIONS.get(name) if model is Settings else None
        if named and isinstance(value, Mapping):
            for job, inner in value.items():
                if isinstance(inner, Mapping):
                    _check_table(inner, named, f"{place} [{name}.{job}]")
        elif _is_section(annotation) and isinstance(value, Mapping):
            _check_table(value, annotation, f"{place} [{name}]")


def _read_toml(config: Path | None, project: Project) -> tuple[dict[str, Any], str]:
    path = config or project.config
    if path is None:
        return {}, str(CONFIG_FILE)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")), str(path)
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no such file. Check --config.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path}: can't be read as TOML: {error}.") from None


def _ours(variables: Mapping[str, str | None]) -> dict[str, str]:
    return {
        name: value
        for name, value in variables.items()
        if value is not None and name.upper().startswith(PREFIX)
    }


def _merge(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(weak)
    for name, value in strong.items():
        below = merged.get(name)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[name] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _validate(values: Mapping[str, Any], place: str) -> Settings:
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise BadSetting(name=name, place=place, reason=reason) from None


def load(
    config: Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    project: Path | None = None,
) -> Settings:
    """All settings, merged and checked; relative paths are those of the project.

    config: a TOML file given by hand instead of the project's. project: its folder, given by
    hand; else the nearest one upwards.

    Raises:
        UsageError: `project` is no folder.
        UntrustedFile: another user may have written a settings file of the working folder.
        UnknownSetting: a name in any place that the connector doesn't know.
        BadSetting: a value that can't be used.
        ConfigurationError: the TOML file is missing or unreadable.
    """
    found = open_project(project)
    table, place = _read_toml(config, found)
    _check_table(table, Settings, place)
    own_keys = {
        str(account.get("api_key_env", "")).upper()
        for account in table.get("accounts", {}).values()
        if isinstance(account, Mapping)
    }
    environment = _ours(os.environ if environ is None else environ)
    file_variables = _ours(_dotenv(found))
    _check_variables(file_variables, str(found.dotenv), own_keys)
    _check_variables(environment, "environment", own_keys)
    variables = {**file_variables, **environment}
    named = _MergedEnvironment(variables)()
    place = f"settings ({place}, .env, environment)"
    settings = _validate(_merge(_merge(table, named), overrides or {}), place)
    settings = settings.model_copy(update=_in_project(settings, found))
    _check_accounts(settings, place)
    return settings


def _dotenv(project: Project) -> Mapping[str, str | None]:
    if project.dotenv is None:
        return {}
    try:
        return dotenv_values(project.dotenv)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{project.dotenv}: can't be read: {error}.") from None


def _in_project(settings: Settings, project: Project) -> dict[str, Any]:
    """What depends on the project: relative paths, and what people should hear."""
    notes = [*project.notes]
    notes += [
        f"accounts.{name}: api_key_env = {account.api_key_env!r} is read for one version more. "
        f"Name the variable {PREFIX}API_KEY_{name.upper()}."
        for name, account in settings.accounts.items()
        if not account.api_key_env.upper().startswith(PREFIX)
    ]
    path = project.path
    return {
        "project": replace(project, notes=tuple(notes)),
        "duckdb_path": path(settings.duckdb_path),
        "state_dir": path(settings.state_dir),
        "push": {
            name: job.model_copy(
                update={
                    field: path(value)
                    for field in ("file", "database", "mapping")
                    if (value := getattr(job, field)) is not None
                }
            )
            for name, job in settings.push.items()
        },
        "accounts": {
            name: account.model_copy(update={"duckdb_path": path(account.duckdb_path)})
            if account.duckdb_path is not None
            else account
            for name, account in settings.accounts.items()
        },
    }


def _check_accounts(settings: Settings, place: str) -> None:
    """Each account has tables of its own: a complete scan of one would flag another's deleted."""
    for name, job in settings.push.items():
        if job.account is not None and job.account not in settings.accounts:
            reason = f"there is no [accounts.{job.account}]"
            raise BadSetting(name=f"push.{name}.account", place=place, reason=reason)
    owners: dict[tuple[str, ...], str] = {}
    for name in settings.accounts:
        other = owners.setdefault(_tables_of(account_settings(settings, name, {})), name)
        if other != name:
            reason = (
                f"its tables are those of {other!r}. Give each a duckdb_path or a dataset of its "
                "own, or neither: each then gets both."
            )
            raise BadSetting(name=f"accounts.{name}", place=place, reason=reason)


def _tables_of(settings: Settings) -> tuple[str, ...]:
    file = (str(settings.duckdb_path.absolute()),) if settings.destination == "duckdb" else ()
    return (settings.destination, settings.dataset.lower(), *file)


def account_settings(
    settings: Settings, name: str, environ: Mapping[str, str] | None = None
) -> Settings:
    """`settings` as account `name` sees them: its key, and its own places where it names any.

    Raises:
        UnknownAccount: no `[accounts.<name>]`.
    """
    if name not in settings.accounts:
        raise UnknownAccount(name=name, known=settings.accounts)
    account = settings.accounts[name]
    variables = {**_dotenv(settings.project), **(os.environ if environ is None else environ)}
    own = {
        field: value
        for field in Account.model_fields
        if field != "api_key_env" and (value := getattr(account, field)) is not None
    }
    if account.dataset is None and account.duckdb_path is None:
        own["dataset"] = f"{settings.dataset}_{name}"
        own["duckdb_path"] = settings.duckdb_path.with_stem(f"{settings.duckdb_path.stem}_{name}")
    key = variables.get(account.api_key_env)
    own["api_key"] = SecretStr(key) if key else None
    return settings.model_copy(update={**own, "account": name})
