"""Run spans through OpenTelemetry, off unless `[telemetry] enabled = true`.

OpenTelemetry's own variables say where spans go: OTEL_EXPORTER_OTLP_ENDPOINT and the like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from connector.errors import ConfigurationError
from connector.settings import Settings

FAILED = (1, 2)  # exit codes
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
                if exit_code in FAILED:
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
