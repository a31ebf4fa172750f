"""Run spans: nothing unless asked for; one span with the run's numbers to a real collector."""

from __future__ import annotations

import sys

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from connector.errors import Unexpected
from connector.settings import Settings, load
from pipelines.commands.invocation import Output, Result, observed
from pipelines.running.monitoring import attributes, run_span
from tests.unit.operations.listener import listening

SUMMARY = {
    "run_id": "r1", "status": "ok", "requests": 35, "waited_s": 1.5,
    "resources": {"notes": {"scan": "full", "rows_read": 7, "reason": "cost"}},
    "error": {"type": "X", "message": "ana@example.com"},
}  # fmt: skip


def test_it_is_off_by_default_and_imports_nothing(monkeypatch: pytest.MonkeyPatch):
    """A run without telemetry doesn't need its libraries."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with run_span("pull", load()) as report:
        report(SUMMARY, 0)


def test_a_collector_receives_the_run(monkeypatch: pytest.MonkeyPatch):
    """Name, requests, waits and rows arrive; free text, which may be personal, does not."""
    with listening() as listener:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", listener.url)
        with run_span("pull", load(overrides={"telemetry": {"enabled": True}})) as tell:
            tell(SUMMARY, 0)
    ((_, body),) = listener.received
    assert b"ana@example.com" not in body
    sent = ExportTraceServiceRequest.FromString(body)
    (span,) = sent.resource_spans[0].scope_spans[0].spans
    values = {each.key: each.value for each in span.attributes}
    assert span.name == "hiringcenter.pull"
    assert values["hiringcenter.requests"].int_value == 35
    assert values["hiringcenter.waited_s"].double_value == 1.5
    assert values["hiringcenter.resources.notes.rows_read"].int_value == 7


def test_a_failure_is_a_failed_span_without_its_message(monkeypatch: pytest.MonkeyPatch):
    """Also where an exception passes: OpenTelemetry would send its text and traceback along."""

    def work(_settings: Settings, _output: Output) -> Result:
        raise ValueError("Ada Byron said <p>no</p>")

    with listening() as listener:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", listener.url)
        on = load(overrides={"telemetry": {"enabled": True}})
        result = observed("pull", work)(on, Output())
    assert isinstance(result.error, Unexpected)
    assert isinstance(result.error.__cause__, ValueError)
    ((_, body),) = listener.received
    assert b"Ada" not in body
    (span,) = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
    assert span.status.code == 2  # STATUS_CODE_ERROR
    assert not span.events


def test_attributes_hold_numbers_and_ids_only():
    """Nothing that a person wrote."""
    found = attributes(SUMMARY, 3, load())
    assert found["hiringcenter.exit_code"] == 3
    assert found["hiringcenter.resources.notes.scan"] == "full"
    assert not any("message" in name or "reason" in name for name in found)
