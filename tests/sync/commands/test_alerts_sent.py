"""Alerts and spans of whole commands, received by real listeners."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from connector.sandbox import Sandbox
from connector.settings import load
from tests.sync.commands.conftest import Run
from tests.sync.push.conftest import results_waiting
from tests.unit.operations.listener import Listener, listening

PEOPLE = "First Name,Last Name,Email\nAda,Byron,ada@example.com\nBo,Nguyen,not-an-email\nCy,Ito,\n"


def bodies(listener: Listener) -> list[dict[str, Any]]:
    return [json.loads(body) for _, body in listener.received]


@pytest.mark.parametrize(("threshold", "reported"), [("1", True), ("2", False)])
def test_rejects_of_a_push(
    run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, threshold: str, reported: bool
):
    """Two of three rows: above the threshold, the alert has the counts; no name, no cell."""
    Path("people.csv").write_text(PEOPLE)
    monkeypatch.setenv("HIRINGCENTER_ALERTS__REJECT_THRESHOLD", threshold)
    with listening() as listener:
        monkeypatch.setenv("HIRINGCENTER_ALERTS__WEBHOOK_URL", listener.url)
        with results_waiting(load()):
            assert run("push", "people.csv", "-q").code == 3
    sent = bodies(listener)
    assert len(sent) == reported
    for alert in sent:
        assert (alert["event"], alert["message"]) == (
            "rejects", "people.csv: 2 of 3 rows were rejected or failed.",
        )  # fmt: skip
        assert alert["facts"]["created"] == 1
        assert not any(word in json.dumps(alert) for word in ("Ada", "Bo", "Ito", "not-an-email"))


def test_old_data_in_the_shape_of_slack(
    run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    """The dead man's switch names the resources; while all is fresh, none is sent."""
    with listening() as listener:
        monkeypatch.setenv("HIRINGCENTER_ALERTS__WEBHOOK_URL", listener.url)
        monkeypatch.setenv("HIRINGCENTER_ALERTS__SHAPE", "slack")
        run("pull", "-q")
        assert run("status", "--max-age", "2h").code == 0
        assert bodies(listener) == []
        monkeypatch.setenv("HIRINGCENTER_ALERTS__MAX_AGE_S", "0.001")
        assert run("status").code == 1
    ((text,),) = (list(body.values()) for body in bodies(listener))
    assert text.startswith("*HiringCenter status: stale*")
    assert "meetings, notes, prospects, tasks" in text


def test_a_refused_key_of_one_account(run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    """The account is named, the key isn't; a webhook that answers 500 changes no exit code."""
    monkeypatch.setenv("HIRINGCENTER_ACCOUNTS__EAST__API_KEY_ENV", "HIRINGCENTER_API_KEY_EAST")
    monkeypatch.setenv("HIRINGCENTER_API_KEY_EAST", "k-wrong-4711")
    with listening(status=500) as listener:
        monkeypatch.setenv("HIRINGCENTER_ALERTS__WEBHOOK_URL", listener.url)
        ended = run("pull", "--account", "east", "--json")
    (alert,) = bodies(listener)
    assert ended.code == 2
    assert (alert["event"], alert["account"]) == ("failure", "east")
    assert "Unauthorized" in alert["message"]
    assert alert["facts"]["run_id"] == ended.summary["run_id"]
    assert "k-wrong-4711" not in json.dumps(alert)
    assert "alert.undelivered" in ended.err


def test_a_pull_as_a_span(run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    """Switched on by one setting: the requests and rows of the run reach a real collector."""
    with listening() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.url)
        assert run("pull", "notes", "-q").code == 0
        assert collector.received == [], "off by default"
        monkeypatch.setenv("HIRINGCENTER_TELEMETRY__ENABLED", "true")
        summary = run("pull", "notes", "--json").summary
    ((_, body),) = collector.received
    (span,) = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
    values = {each.key: each.value for each in span.attributes}
    assert values["hiringcenter.run_id"].string_value == summary["run_id"]
    assert values["hiringcenter.requests"].int_value == summary["requests"]
    assert values["hiringcenter.resources.notes.rows_read"].int_value == 40
