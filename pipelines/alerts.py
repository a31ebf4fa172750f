"""Telling people by webhook: a run failed, rows were rejected, data got old.

An alert says which run, what and how many. It never holds a row, a cell or a key: only counts,
names of resources, and messages of errors that can't quote any (`ConnectorError.quotes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from connector import errors
from connector.errors import ConfigurationError, ConnectorError
from connector.logs import get_logger, redact
from connector.settings import AlertSettings, Settings, check_public_url

log = get_logger("alerts")
TIMEOUT_S = 10.0
_FAILED = (1, 2)


@dataclass(frozen=True)
class Alert:
    """event: failure, rejects or stale. facts: counts and ids, nothing personal."""

    event: str
    kind: str
    message: str
    account: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def alerts_of(
    kind: str, summary: Mapping[str, Any], exit_code: int, settings: Settings
) -> list[Alert]:
    """What of one command's summary people should hear of, by the `[alerts]` settings.

    kind: pull, push, sync or status. summary: its `--json` object.
    """
    found: list[Alert] = []
    rules = settings.alerts
    if kind == "status" and "error" not in summary:
        return list(_stale(summary, exit_code, settings))
    if exit_code in _FAILED and rules.on_failure:
        message = _message(kind, summary) or "The run could not finish; see its log."
        facts = {**_ids(summary, exit_code), **_named(summary)}
        found.append(_alert("failure", kind, message, settings, facts))
    for name, push in _pushes(kind, summary):
        bad = int(push.get("rejected", 0)) + int(push.get("failed", 0))
        if bad > rules.reject_threshold:
            facts = {**_ids(push, exit_code), **_counts(push), **_named(push, name)}
            counts = f"{bad} of {push.get('rows', bad)} rows were rejected or failed."
            message = _of_job_or_file(push, name) + counts
            found.append(_alert("rejects", kind, message, settings, facts))
    return found


def send(alerts: list[Alert], settings: AlertSettings) -> None:
    """POST each alert to the webhook. What goes wrong is a warning: the run's result stands."""
    if not alerts or settings.webhook_url is None:
        return
    import httpx

    url = settings.webhook_url.get_secret_value()
    for alert in alerts:
        try:
            answer = httpx.post(url, json=body(alert, settings.shape), timeout=TIMEOUT_S)
            refused = f"HTTP {answer.status_code}" if not answer.is_success else None
        except Exception as error:  # noqa: BLE001 - whatever it is, the run itself has ended well
            refused = type(error).__name__  # its message may hold the address, which is a secret
        if refused is not None:
            log.warning("alert.undelivered", alert=alert.event, reason=refused)


def check_webhook(settings: AlertSettings) -> None:
    """ConfigurationError unless the webhook is https, or http to loopback."""
    if settings.webhook_url is None:
        return
    try:
        check_public_url(settings.webhook_url.get_secret_value())
    except ValueError as error:
        raise ConfigurationError(f"alerts.webhook_url: {error}") from None


def body(alert: Alert, shape: str) -> dict[str, Any]:
    """The JSON that is sent. shape: `json` (the alert's fields) or `slack` (`{"text": …}`)."""
    if shape == "json":
        return {"source": "hiringcenter-connector", **asdict(alert)}
    account = f" ({alert.account})" if alert.account else ""
    run_id = alert.facts.get("run_id")
    run = f"\nRun `{run_id}`: `hiringcenter runs {run_id}`" if run_id else ""
    text = f"*HiringCenter {alert.kind}{account}: {alert.event}*\n{alert.message}{run}"
    return {"text": text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}


def _alert(
    event: str, kind: str, message: str, settings: Settings, facts: Mapping[str, Any]
) -> Alert:
    return Alert(event, kind, redact(message), settings.account, facts)


def _message(kind: str, summary: Mapping[str, Any]) -> str | None:
    """What failed first: the run itself, the pull of a sync, or one of its jobs, by name."""
    pushes = dict(summary.get("push") or {}).items()
    jobs = ({**push, "job": name} for name, push in pushes)
    for part in (summary, summary.get("pull") or {}, *jobs):
        error = part.get("error")
        if isinstance(error, Mapping):
            message = _shareable(kind, str(error.get("type")), str(error.get("message", "")))
            return _of_job_or_file(part) + message
    return None


def _named(push: Mapping[str, Any], job: str | None = None) -> dict[str, str]:
    """The job and the file, table or query of a push, as far as it has them."""
    names = {"job": job or push.get("job"), "source": push.get("source")}
    return {name: value for name, value in names.items() if value}


def _of_job_or_file(push: Mapping[str, Any], job: str | None = None) -> str:
    """`spring: `, `people.csv: `, or nothing."""
    return next((f"{name}: " for name in _named(push, job).values()), "")


def _shareable(kind: str, name: str, message: str) -> str:
    """The message of an error, where its type is known to quote nobody's data."""
    found = getattr(errors, name, None)
    if isinstance(found, type) and issubclass(found, ConnectorError) and not found.quotes:
        return message
    return f"The {kind} failed: {name}. `hiringcenter runs`, or its log, has the message."


def _pushes(
    kind: str, summary: Mapping[str, Any]
) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
    if kind == "push":
        yield None, summary
    elif kind == "sync":
        yield from dict(summary.get("push") or {}).items()


def _counts(push: Mapping[str, Any]) -> dict[str, int]:
    names = ("rows", "created", "updated", "unchanged", "rejected", "failed")
    return {name: int(push[name]) for name in names if name in push}


def _ids(summary: Mapping[str, Any], exit_code: int) -> dict[str, Any]:
    run_id = summary.get("run_id") or dict(summary.get("pull") or {}).get("run_id")
    return {"exit_code": exit_code, **({"run_id": run_id} if run_id else {})}


def _stale(summary: Mapping[str, Any], exit_code: int, settings: Settings) -> Iterator[Alert]:
    if exit_code != 1:
        return
    old = sorted(name for name, facts in _resources(summary).items() if facts.get("stale"))
    message = f"Older than allowed: {', '.join(old) or 'every resource'}. Is cron still running?"
    yield _alert("stale", "status", message, settings, {"resources": old})


def _resources(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return dict(summary.get("resources") or {})
