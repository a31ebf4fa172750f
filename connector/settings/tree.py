"""The settings as a tree of frozen models: every setting, and the values it takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import NoDecode

from connector.errors import MissingKey, did_you_mean, quoted
from connector.settings.folders import LEDGER, Project, default_state_dir, effective_state_dir

# --- values: rate limits and URLs -----------------------------------------------------------------

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
            raise ValueError("expected requests/seconds, as in 300/60s,6000/3600s")
        limits.append(RateLimit(int(match[1]), float(match[2])))
    return tuple(limits)


def parse_secrets(text: Any) -> Any:
    """`first,second` as secrets, surrounding spaces apart; other values are returned as they are.

    Raises:
        ValueError: one of them is empty, and anyone could sign with it.
    """
    if isinstance(text, str | SecretStr):
        plain = text if isinstance(text, str) else text.get_secret_value()
        text = [part.strip() for part in plain.split(",")]
    if isinstance(text, list | tuple):
        plain_texts = [
            each.get_secret_value() if isinstance(each, SecretStr) else each for each in text
        ]
        if not all(plain_texts):
            raise ValueError("one of the secrets is empty, so anyone could sign with it")
    return text


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
            hint = did_you_mean(name, known)
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


# --- the tree -------------------------------------------------------------------------------------

PREFIX = "HIRINGCENTER_"
MOST_IN_FLIGHT = 64  # requests of one push

RateLimits = Annotated[tuple[RateLimit, ...], NoDecode, BeforeValidator(parse_rate_limits)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(parse_secrets)]
BaseUrl = Annotated[str, AfterValidator(check_base_url)]
LedgerUrl = Annotated[str, AfterValidator(check_ledger_url)]
Fraction = Annotated[float, Field(gt=0, le=1)]
_MOST_S = 10**10  # three hundred years; more leaves the calendar
Positive = Annotated[float, Field(gt=0, le=_MOST_S)]
NotNegative = Annotated[float, Field(ge=0, le=_MOST_S)]
Names = tuple[str, ...]
Dataset = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")]
AccountName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,32}$")]  # it names files and schemas


class Section(BaseModel):
    """A frozen part of the tree."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class HttpSettings(Section):
    """How long one request may take, and for how long it is retried. Seconds."""

    request_timeout_s: Positive = 60.0
    retry_total_s: Positive = 300.0


class ResourceSettings(Section):
    """Columns of one resource, by column name (snake_case) or API name."""

    exclude_columns: Names = ()
    hash_columns: Names = ()

    @property
    def hidden_columns(self) -> Names:
        """Those whose values never land."""
        return (*self.exclude_columns, *self.hash_columns)


class PullSettings(Section):
    """When a scan is full, and how a long one is split.

    full_share: the part of the longest window that the lists of a pull share; what narrow scans
    leave of it goes to full scans. full_every_s: how old the last full scan of a list may get,
    whatever the share. history: whose former versions are kept. history_days: for how long; None:
    forever.
    """

    full_share: Fraction = 0.10
    full_every_s: Positive = 86_400.0
    lookback_s: NotNegative = 300.0
    chunk_s: Positive = 5.0
    chunk_pages: Annotated[int, Field(ge=1)] | None = None
    page_size: Annotated[int, Field(ge=1)] = 200
    meetings_past_s: Positive = 30 * 86_400.0
    meetings_ahead_s: Positive = 180 * 86_400.0
    hash_key: SecretStr | None = None
    history: tuple[Literal["prospects", "notes", "tasks", "meetings"], ...] = ("prospects", "tasks")
    history_days: Positive | None = None
    prospects: ResourceSettings = ResourceSettings()
    notes: ResourceSettings = ResourceSettings()
    tasks: ResourceSettings = ResourceSettings()
    meetings: ResourceSettings = ResourceSettings()


class MartSettings(Section):
    """Answers to questions that people ask, made at the destination. directory: of the user's own
    SQL files. timeout_s: how long one of these may run."""

    enabled: bool = True
    directory: Path | None = None
    timeout_s: Positive = 60.0


class WriteSettings(Section):
    """How rows are checked and sent.

    default_region: ISO 3166 country of phone numbers without a country code.
    key_memory_s: how long an idempotency key is trusted; after that, a write without an answer is
    looked up before it is sent again.
    retention_days: how long outcomes and hashes of finished rows are kept.
    fresh_s: for how long what was read of a person is trusted when they are changed; people read
    before that are looked up first.
    lookups: how many people one push may look up to find out whether a field that it only fills is
    empty.
    undo_days: how long `undo` can put back what a run has changed; 0: nothing is kept for it.
    """

    default_region: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] = "US"
    key_memory_s: Positive = 600.0
    retention_days: Annotated[int, Field(ge=1)] = 90
    undo_days: Annotated[int, Field(ge=0)] = 7
    max_in_flight: Annotated[int, Field(ge=1, le=MOST_IN_FLIGHT)] = MOST_IN_FLIGHT
    fresh_s: NotNegative = 900.0
    lookups: Annotated[int, Field(ge=0)] = 500


class PushJob(Section):
    """One `[push.<name>]`: what `push --job NAME` and `sync` send.

    encoding, delimiter, sheet: of `file`, if detection gets them wrong. skip_rows: lines above its
    header. results: file for every row with its outcome. to: what rows become; key: the column that
    is the identity of one that isn't a prospect. allow_shared_contact: send rows whose email or
    phone belongs to someone with another first name. fill_empty: only fill fields that are empty.
    restore: put back what was edited in HiringCenter since. recheck: look people up before
    they are changed. lookups: instead of `writes.lookups`.
    account: the only account it is for; None: any.
    """

    file: Path | None = None
    table: str | None = None
    sql: str | None = None
    database: Path | None = None
    mode: Literal["upsert", "create-only", "update-only"] = "upsert"
    mapping: Path | None = None
    encoding: str | None = None
    delimiter: str | None = None
    sheet: str | None = None
    skip_rows: Annotated[int, Field(ge=0)] = 0
    results: Path | None = None
    to: Literal["prospects", "notes", "tasks", "meetings"] = "prospects"
    key: str | None = None
    max_changes: Annotated[int, Field(ge=0)] | None = None
    allow_shared_contact: bool = False
    fill_empty: bool = False
    restore: bool = False
    recheck: bool = True
    lookups: Annotated[int, Field(ge=0)] | None = None
    account: str | None = None


class WebhookSettings(Section):
    """Events: for how long they are relied on, and how soon what they brought can be read.

    trust_days: events of each type must have come within so many days. flush_s: how often `drain`
    publishes a new copy at most. waiting_max: changed people who wait to be looked up; more
    deliveries are refused until some of them have been.
    """

    trust_days: Annotated[float, Field(gt=0)] = 7.0
    flush_s: Positive = 30.0
    waiting_max: Annotated[int, Field(ge=1)] = 1_000_000


class WatchSettings(Section):
    """share: the part of the longest window that `watch` spends on polls and look-ups."""

    share: Fraction = 0.10


class Account(Section):
    """One `[accounts.<name>]`. api_key_env, webhook_secrets_env: the environment variables that
    hold its key and the secrets of its webhooks."""

    api_key_env: str
    webhook_secrets_env: str | None = None
    base_url: BaseUrl | None = None
    rate_limits: RateLimits | None = None
    ledger_url: LedgerUrl | None = None
    destination: str | None = None
    table_format: Literal["delta", "iceberg"] | None = None
    duckdb_path: Path | None = None
    dataset: Dataset | None = None


class AlertSettings(Section):
    """Where alerts go, and about what. webhook_url is a secret: it often holds a token.

    max_age_s: the default of `status --max-age`.
    """

    webhook_url: SecretStr | None = None
    shape: Literal["json", "slack"] = "json"
    on_failure: bool = True
    reject_threshold: Annotated[int, Field(ge=0)] = 0
    max_age_s: Positive | None = None


class LogSettings(Section):
    """format: `text` is human-readable on a terminal and logfmt elsewhere; `json` is one object a
    line."""

    format: Literal["text", "json"] = "text"


class TelemetrySettings(Section):
    """Run spans through OpenTelemetry's own OTEL_* environment; off unless enabled."""

    enabled: bool = False


class WrittenSettings(Section):
    """All settings that people may write."""

    api_key: SecretStr | None = None
    base_url: BaseUrl = "https://api.hiringcenterpro.com/v2"
    rate_limits: RateLimits = (RateLimit(300, 60.0), RateLimit(6000, 3600.0))
    ledger_url: LedgerUrl | None = None
    destination: str = "duckdb"
    table_format: Literal["delta", "iceberg"] | None = None
    duckdb_path: Path = Path("data/hiringcenter.duckdb")
    dataset: Dataset = "hiringcenter"
    state_dir: Path = Field(default_factory=default_state_dir)
    http: HttpSettings = HttpSettings()
    pull: PullSettings = PullSettings()
    marts: MartSettings = MartSettings()
    writes: WriteSettings = WriteSettings()
    push: dict[str, PushJob] = {}
    accounts: dict[AccountName, Account] = {}
    webhook_secrets: Secrets = ()
    webhooks: WebhookSettings = WebhookSettings()
    watch: WatchSettings = WatchSettings()
    alerts: AlertSettings = AlertSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    logs: LogSettings = LogSettings()


class Settings(WrittenSettings):
    """All settings, as `load` reads them. account: the one in use, if any."""

    account: str | None = Field(default=None, exclude=True)
    project: Project = Field(default_factory=lambda: Project(Path.cwd()), exclude=True)

    @property
    def key(self) -> str:
        """The API key; MissingKey if none is set."""
        if self.api_key is None:
            if self.account:
                variable = self.accounts[self.account].api_key_env
                raise MissingKey(variable, searched=self.project.searched)
            raise MissingKey(f"{PREFIX}API_KEY", self.accounts, searched=self.project.searched)
        return self.api_key.get_secret_value()

    def check_account(self) -> None:
        """Raises:
        MissingKey: there are accounts, none is chosen, and no key is set outside of them.
        """
        if self.accounts and self.account is None:
            _ = self.key

    @property
    def jobs(self) -> dict[str, PushJob]:
        """The push jobs of the account in use, in order."""
        return {name: job for name, job in self.push.items() if job.account in (None, self.account)}

    @property
    def state_path(self) -> Path:
        """Where state is kept: `state_dir`, or a subfolder of one that existed before."""
        return effective_state_dir(self.state_dir)

    @property
    def resolved_ledger_url(self) -> str:
        """The ledger's SQLAlchemy URL: the configured one, or SQLite in the state directory."""
        return self.ledger_url or f"sqlite:///{self.state_path / LEDGER}"
