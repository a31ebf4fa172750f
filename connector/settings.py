"""The settings tree: typed, frozen, and every unknown name refused with the nearest known one.

Order, strongest first: `overrides` (flags), environment `HIRINGCENTER_*`, `.env`,
`config/hiringcenter.toml` (or the file given), defaults. Nested names use two underscores in
the environment: `HIRINGCENTER_PULL__FULL_SHARE`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from connector.errors import BadSetting, ConfigurationError, MissingKey, UnknownSetting, nearest

PREFIX = "HIRINGCENTER_"
CONFIG_FILE = Path("config/hiringcenter.toml")
RESOURCES = ("prospects", "notes", "tasks", "meetings")


@dataclass(frozen=True)
class RateLimit:
    """At most `limit` requests in any `length_s` seconds."""

    limit: int
    length_s: float


def parse_rate_limits(text: Any) -> Any:
    """`300/60s,6000/3600s` as RateLimits; what isn't text is left as it is."""
    if not isinstance(text, str):
        return text
    limits = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+(?:\.\d+)?)\s*s\s*", part)
        if not match or int(match[1]) < 1 or float(match[2]) <= 0:
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


def check_base_url(url: str) -> str:
    """`url` without a trailing slash; ValueError unless it is https, or http to loopback."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected an https:// URL, as in https://api.hiringcenterpro.com/v2")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("the URL must hold no user, password, query or fragment")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError(
            f"plain http to {parts.hostname} would show your key to the network; use https "
            "(plain http is for 127.0.0.1, ::1 and localhost)"
        )
    return url.rstrip("/")


RateLimits = Annotated[tuple[RateLimit, ...], NoDecode, BeforeValidator(parse_rate_limits)]
BaseUrl = Annotated[str, BeforeValidator(check_base_url)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Names = tuple[str, ...]


class Section(BaseModel):
    """A frozen part of the tree."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class HttpSettings(Section):
    """How long one request may take, and for how long one is tried again. Seconds."""

    request_timeout_s: Positive = 60.0
    retry_total_s: Positive = 300.0


class ResourceSettings(Section):
    """Columns of one resource, by column name (snake_case) or API name."""

    exclude_columns: Names = ()
    hash_columns: Names = ()


class PullSettings(Section):
    """When a scan is full, and how a long one is cut.

    full_share: a full scan is taken each time while it costs at most this share of the longest
    window. full_every_s: otherwise, how old the last complete scan may get.
    """

    full_share: Fraction = 0.10
    full_every_s: Positive = 86_400.0
    lookback_s: Annotated[float, Field(ge=0)] = 300.0
    chunk_s: Positive = 5.0
    chunk_pages: Annotated[int, Field(ge=1)] = 100
    page_size: Annotated[int, Field(ge=1)] = 200
    meetings_past_s: Positive = 30 * 86_400.0
    meetings_ahead_s: Positive = 180 * 86_400.0
    hash_key: SecretStr | None = None
    prospects: ResourceSettings = ResourceSettings()
    notes: ResourceSettings = ResourceSettings()
    tasks: ResourceSettings = ResourceSettings()
    meetings: ResourceSettings = ResourceSettings()


class WriteSettings(Section):
    """How rows are checked and sent.

    default_region: ISO 3166 country of phone numbers without a country code.
    key_memory_s: how long the API surely remembers an idempotency key.
    retention_days: how long outcomes and hashes of closed rows are kept.
    """

    default_region: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] = "US"
    key_memory_s: Positive = 12 * 3600.0
    retention_days: Annotated[int, Field(ge=1)] = 90
    max_in_flight: Annotated[int, Field(ge=1, le=64)] = 64


class PushJob(Section):
    """One `[push.<name>]`: what `push --job NAME` and `sync` send."""

    file: Path | None = None
    table: str | None = None
    sql: str | None = None
    database: Path | None = None
    mode: Literal["upsert", "create-only", "update-only"] = "upsert"
    mapping: Path | None = None
    max_changes: Annotated[int, Field(ge=0)] | None = None


class Account(Section):
    """One `[accounts.<name>]`. api_key_env: the environment variable that holds its key."""

    api_key_env: str
    base_url: BaseUrl | None = None
    rate_limits: RateLimits | None = None
    ledger_url: str | None = None
    destination: str | None = None
    duckdb_path: Path | None = None
    dataset: str | None = None


class AlertSettings(Section):
    """Where to tell people, and of what. webhook_url is a secret: it often holds a token."""

    webhook_url: SecretStr | None = None
    shape: Literal["json", "slack"] = "json"
    on_failure: bool = True
    reject_threshold: Annotated[int, Field(ge=0)] = 0
    max_age_s: Positive | None = None


class TelemetrySettings(Section):
    """Run spans through OpenTelemetry's own OTEL_* environment; off unless enabled."""

    enabled: bool = False


class Settings(BaseSettings):
    """All settings. Read them with `load`."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_prefix=PREFIX, env_nested_delimiter="__"
    )

    api_key: SecretStr | None = None
    base_url: BaseUrl = "https://api.hiringcenterpro.com/v2"
    rate_limits: RateLimits = (RateLimit(300, 60.0), RateLimit(6000, 3600.0))
    ledger_url: str | None = None
    destination: str = "duckdb"
    duckdb_path: Path = Path("data/hiringcenter.duckdb")
    dataset: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")] = "hiringcenter"
    state_dir: Path = Path(".hiringcenter")
    http: HttpSettings = HttpSettings()
    pull: PullSettings = PullSettings()
    writes: WriteSettings = WriteSettings()
    push: dict[str, PushJob] = {}
    accounts: dict[str, Account] = {}
    alerts: AlertSettings = AlertSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    account: str | None = Field(default=None, exclude=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` has merged; it reads the places itself, to name them in errors."""
        return (init_settings,)

    @property
    def key(self) -> str:
        """The API key; MissingKey if none is set."""
        if self.api_key is None:
            variable = self.accounts[self.account].api_key_env if self.account else None
            raise MissingKey(variable or f"{PREFIX}API_KEY")
        return self.api_key.get_secret_value()

    @property
    def resolved_ledger_url(self) -> str:
        """The ledger's SQLAlchemy URL: the configured one, or SQLite in the state directory."""
        return self.ledger_url or f"sqlite:///{(self.state_dir / 'ledger.db').absolute()}"


class _MergedEnvironment(EnvSettingsSource):
    """pydantic-settings' parser of environment names over `.env` and the environment at once."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = {name.lower(): value for name, value in variables.items()}
        super().__init__(Settings, env_ignore_empty=True)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name: value for name, value in self._variables.items() if value != ""}


def _known_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if model is Settings and name == "account":
            continue
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _known_names(annotation, f"{prefix}{name}__")
        yield f"{prefix}{name}"


def _check_variables(variables: Mapping[str, str], place: str, own_keys: set[str]) -> None:
    known = {f"{PREFIX}{name}".upper() for name in _known_names(Settings)} | own_keys
    for name in variables:
        if name.upper() not in known and not name.upper().startswith(
            (f"{PREFIX}PUSH__", f"{PREFIX}ACCOUNTS__")
        ):
            raise UnknownSetting(name=name, place=place, nearest=nearest(name.upper(), known))


def _check_table(table: Mapping[str, Any], model: type[BaseModel], place: str) -> None:
    known = [name for name in model.model_fields if name != "account"]
    for name, value in table.items():
        if name not in known:
            raise UnknownSetting(name=name, place=place, nearest=nearest(name, known))
        annotation = model.model_fields[name].annotation
        named = {"push": PushJob, "accounts": Account}.get(name) if model is Settings else None
        if named and isinstance(value, Mapping):
            for job, inner in value.items():
                if isinstance(inner, Mapping):
                    _check_table(inner, named, f"{place} [{name}.{job}]")
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            if isinstance(value, Mapping):
                _check_table(value, annotation, f"{place} [{name}]")


def _read_toml(config: Path | None) -> tuple[dict[str, Any], str]:
    path = config or CONFIG_FILE
    if config is None and not path.exists():
        return {}, str(path)
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
    dotenv: Path = Path(".env"),
) -> Settings:
    """All settings, merged and checked.

    Raises:
        UnknownSetting: a name in any place that the connector doesn't know.
        BadSetting: a value that can't be used.
        ConfigurationError: the TOML file is missing or unreadable.
    """
    table, place = _read_toml(config)
    _check_table(table, Settings, place)
    own_keys = {
        str(account.get("api_key_env", "")).upper()
        for account in table.get("accounts", {}).values()
        if isinstance(account, Mapping)
    }
    environment = _ours(os.environ if environ is None else environ)
    file_variables = _ours(dotenv_values(dotenv)) if dotenv.is_file() else {}
    _check_variables(file_variables, str(dotenv), own_keys)
    _check_variables(environment, "environment", own_keys)
    variables = {**file_variables, **environment}
    named = _MergedEnvironment(variables)()
    return _validate(_merge(_merge(table, named), overrides or {}), f"settings ({place}, .env, environment)")


def account_settings(
    settings: Settings, name: str, environ: Mapping[str, str] | None = None
) -> Settings:
    """`settings` as account `name` sees them: its key, and its own places where it names any.

    Raises:
        UnknownSetting: no `[accounts.<name>]`.
    """
    if name not in settings.accounts:
        known = nearest(name, settings.accounts)
        raise UnknownSetting(name=f"accounts.{name}", place="--account", nearest=known)
    account = settings.accounts[name]
    variables = {**dotenv_values(Path(".env")), **(os.environ if environ is None else environ)}
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
