"""What monitoring learns of a run: alerts by webhook, and a span through OpenTelemetry.

An alert says which run, what and how many. It never holds a row, a cell or a key: only counts,
names of resources, and messages of errors that can't quote any (`ConnectorError.quotes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from connector import errors
from connector.errors import ConfigurationError, ConnectorError
from connector.logs import get_logger, redact
from connector.runs import SENDING
from connector.settings import AlertSettings, Settings, check_public_url

log = get_logger("alerts")
TIMEOUT_S = 10.0
_FAILED = (1, 2)  # exit codes
_COUNTS = ("rows", "created", "updated", "unchanged", "rejected", "failed")


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
    """The alerts that one command's summary calls for, by the `[alerts]` settings.

    kind: the command: pull, push, sync or status, say. summary: its `--json` object.
    """

    def alert(event: str, message: str, facts: Mapping[str, Any]) -> Alert:
        return Alert(event, kind, redact(message), settings.account, facts)

    if kind == "status" and "error" not in summary:
        resources = dict(summary.get("resources") or {})
        old = sorted(name for name, facts in resources.items() if facts.get("stale"))
        names = ", ".join(old) or "every resource"
        message = f"Older than allowed: {names}. Is cron still running?"
        return [alert("stale", message, {"resources": old})] if exit_code == 1 else []
    jobs = {name: {**push, "job": name} for name, push in dict(summary.get("push") or {}).items()}
    found = []
    if exit_code in _FAILED and settings.alerts.on_failure:
        parts = (summary, summary.get("pull") or {}, *jobs.values())
        failed = next((part for part in parts if isinstance(part.get("error"), Mapping)), None)
        message = "The run didn't finish; see its log."
        if failed is not None:
            message = _prefix(failed) + _shareable(kind, failed["error"])
        found.append(alert("failure", message, {**_ids(summary, exit_code), **_names(summary)}))
    for push in [summary] if kind in SENDING else jobs.values() if kind == "sync" else []:
        bad = int(push.get("rejected", 0)) + int(push.get("failed", 0))
        if bad > settings.alerts.reject_threshold:
            message = f"{bad} of {push.get('rows', bad)} rows were rejected or failed."
            counts = {name: int(push[name]) for name in _COUNTS if name in push}
            facts = {**_ids(push, exit_code), **counts, **_names(push)}
            found.append(alert("rejects", _prefix(push) + message, facts))
    return found


def _ids(summary: Mapping[str, Any], exit_code: int) -> dict[str, Any]:
    run_id = summary.get("run_id") or dict(summary.get("pull") or {}).get("run_id")
    return {"exit_code": exit_code, **({"run_id": run_id} if run_id else {})}


def _names(push: Mapping[str, Any]) -> dict[str, str]:
    """The job and the file, table or query of a push, as far as it has them."""
    return {name: push[name] for name in ("job", "source") if push.get(name)}


def _prefix(push: Mapping[str, Any]) -> str:
    """`spring: `, `people.csv: `, or nothing."""
    return next((f"{name}: " for name in _names(push).values()), "")


def _shareable(kind: str, error: Mapping[str, Any]) -> str:
    """The message of an error, where its type is known to quote no data."""
    name = str(error.get("type"))
    found = getattr(errors, name, None)
    if isinstance(found, type) and issubclass(found, ConnectorError) and not found.quotes:
        return str(error.get("message", ""))
    return f"The {kind} failed: {name}. `hiringcenter runs`, or its log, has the message."


def send(alerts: list[Alert], settings: AlertSettings) -> None:
    """POST each alert to the webhook. A failure is only a warning: the run's result stands."""
    if not alerts or settings.webhook_url is None:
        return
    import httpx

    url = settings.webhook_url.get_secret_value()
    for alert in alerts:
        try:
            answer = httpx.post(url, json=_body(alert, settings.shape), timeout=TIMEOUT_S)
            refused = f"HTTP {answer.status_code}" if not answer.is_success else None
        except Exception as error:  # noqa: BLE001 - whatever it is, the run's result stands
            refused = type(error).__name__  # its message may hold the address, which is a secret
        if refused is not None:
            log.warning("alert.undelivered", alert=alert.event, reason=refused)


def _body(alert: Alert, shape: str) -> dict[str, Any]:
    """shape: `json` (the alert's fields) or `slack` (`{"text": …}`)."""
    if shape == "json":
        return {"source": "hiringcenter-connector", **asdict(alert)}
    account = f" ({alert.account})" if alert.account else ""
    run_id = alert.facts.get("run_id")
    run = f"\nRun `{run_id}`: `hiringcenter runs {run_id}`" if run_id else ""
    text = f"*HiringCenter {alert.kind}{account}: {alert.event}*\n{alert.message}{run}"
    return {"text": text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}


def check_webhook(settings: AlertSettings) -> None:
    """ConfigurationError unless the webhook is https, or http to loopback."""
    if settings.webhook_url is None:
        return
    try:
        check_public_url(settings.webhook_url.get_secret_value())
    except ValueError as error:
        raise ConfigurationError(f"alerts.webhook_url: {error}") from None


# --- spans: off unless `[telemetry] enabled = true` -----------------------------------------
#
# OpenTelemetry's own variables say where they go: OTEL_EXPORTER_OTLP_ENDPOINT and the like.

Report = Callable[[Mapping[str, Any], int], None]


@contextmanager
def run_span(kind: str, settings: Settings) -> Iterator[Report]:
    """A span `hiringcenter.<kind>` around one run; call what it yields with (summary, exit code).

    Raises:
        ConfigurationError: telemetry is on, but its libraries aren't installed.
    """
    if not settings.telemetry.enabled:
        yield lambda _summary, _exit_code: None
        return
    provider = _provider()
    from opentelemetry.trace import StatusCode

    tracer = provider.get_tracer("hiringcenter-connector")
    try:
        with tracer.start_as_current_span(
            f"hiringcenter.{kind}",
            record_exception=False,  # its message may quote data
            set_status_on_exception=False,
        ) as span:

            def report(summary: Mapping[str, Any], exit_code: int) -> None:
                span.set_attributes(attributes(summary, exit_code, settings))
                if exit_code in _FAILED:
                    span.set_status(StatusCode.ERROR)

            yield report
    finally:
        provider.shutdown()


def attributes(
    summary: Mapping[str, Any], exit_code: int, settings: Settings
) -> dict[str, str | int | float]:
    """The span's attributes: the summary's numbers and ids, flattened; no free text."""
    found: dict[str, str | int | float] = {"hiringcenter.exit_code": exit_code}
    if settings.account:
        found["hiringcenter.account"] = settings.account
    found.update(_numbers("hiringcenter", summary))
    return found


def _numbers(prefix: str, facts: Mapping[str, Any]) -> Iterator[tuple[str, str | int | float]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _numbers(f"{prefix}.{name}", value)
        elif isinstance(value, bool | int | float) or name in ("run_id", "status", "scan"):
            yield f"{prefix}.{name}", value


def _provider() -> Any:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigurationError(
            "telemetry.enabled is set, but OpenTelemetry isn't installed. Install it with "
            "pip install 'hiringcenter-connector[telemetry]', or remove the setting."
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": "hiringcenter-connector"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
