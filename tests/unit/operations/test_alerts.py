"""Alerts: sent when the settings say so, received by a real listener, free of personal data."""

from __future__ import annotations

import json

import pytest
from pydantic import SecretStr

from connector.errors import (
    ConfigurationError,
    LedgerUnusable,
    MissingKey,
    Unauthorized,
    Unexpected,
    UnknownColumn,
)
from connector.logs import error_facts
from connector.settings import AlertSettings, Settings, load
from pipelines.commands.invocation import Output, Result, observed
from pipelines.running.monitoring import alerts_of, check_webhook, send
from tests.unit.operations.listener import listening

PUSH = {
    "run_id": "r1", "status": "ok", "rows": 10, "created": 4, "updated": 2, "unchanged": 1,
    "rejected": 2, "failed": 1, "requests": 7,
}  # fmt: skip
FAILED = {"status": "failed", "error": {"type": "Refused", "message": "no: Ana Ruiz"}}


def settings(**alerts: object) -> Settings:
    return load(overrides={"alerts": alerts})


def test_an_alert_of_a_failure_omits_what_it_quotes():
    """What failed and where to read why; a name in a server's answer isn't passed on."""
    (alert,) = alerts_of("pull", FAILED, 1, settings())
    assert (alert.event, alert.kind) == ("failure", "pull")
    assert alert.message.startswith("The pull failed: Refused.")
    assert "hiringcenter runs" in alert.message
    assert alerts_of("pull", FAILED, 1, settings(on_failure=False)) == []


@pytest.mark.parametrize(
    ("error", "reported"),
    [
        (MissingKey(), True),
        (LedgerUnusable(ledger="x", reason="is damaged", action="Move it away."), True),
        (Unexpected(ValueError("Ada Byron")), True),
        (UnknownColumn(location="people.csv", column="Ada Byron", nearest=None), False),
        (Unauthorized(status=403, url_path="/prospects", reason="Ada Byron is not yours"), False),
        (KeyError("Ada Byron"), False),
    ],
)
@pytest.mark.parametrize("kind", ["push", "sync"])
def test_messages_that_may_quote_data_stay_here(error: Exception, reported: bool, kind: str):
    """A header, a cell, the server's words: the alert names the type, the log has the rest."""
    part = {"error": {"type": type(error).__name__, "message": str(error)}}
    summary = {"pull": {}, "push": {"spring": part}} if kind == "sync" else part
    (alert,) = alerts_of(kind, summary, 1, settings())
    assert "Ada" not in alert.message
    named = "spring: " if kind == "sync" else ""
    assert (alert.message == named + str(error)) == reported


def test_a_failure_names_the_file_or_job():
    """Of a push by hand, of a job, and of the part of a sync that failed."""
    failed = {**FAILED, "run_id": "r1", "source": "people.csv"}
    (by_hand,) = alerts_of("push", failed, 1, settings())
    assert by_hand.message.startswith("people.csv: The push failed")
    assert by_hand.facts["source"] == "people.csv"
    (of_job,) = alerts_of("push", {**failed, "job": "spring"}, 1, settings())
    assert of_job.message.startswith("spring: The push failed")
    assert (of_job.facts["job"], of_job.facts["source"]) == ("spring", "people.csv")
    (of_sync,) = alerts_of("sync", {"pull": PUSH, "push": {"spring": failed}}, 1, settings())
    assert of_sync.message.startswith("spring: The sync failed")


@pytest.mark.parametrize("code", [0, 75, 130, 143])
def test_only_failures_are_alerts(code: int):
    """Done, held by another run, and stopped by a person are ordinary."""
    assert alerts_of("pull", {"status": "ok"}, code, settings()) == []


@pytest.mark.parametrize(("threshold", "reported"), [(0, True), (2, True), (3, False), (9, False)])
def test_rejects_above_the_threshold_are_an_alert(threshold: int, reported: bool):
    """Rejected and failed rows count together, in a push and in each job of a sync."""
    rules = settings(reject_threshold=threshold)
    assert bool(alerts_of("push", PUSH, 3, rules)) == reported
    found = alerts_of("sync", {"pull": {}, "push": {"spring": PUSH}}, 3, rules)
    assert [alert.facts["job"] for alert in found] == (["spring"] if reported else [])


def test_staleness_names_the_resources():
    """`status --max-age` that exits 1 is the dead man's switch."""
    summary = {"resources": {"notes": {"stale": True}, "tasks": {"stale": False}}}
    (alert,) = alerts_of("status", summary, 1, settings())
    assert alert.event == "stale"
    assert alert.facts == {"resources": ["notes"]}
    assert alerts_of("status", summary, 0, settings()) == []


def test_a_status_that_could_not_look_is_a_failure_not_staleness():
    """The ledger doesn't answer: that is what is reported, not that every resource is old."""
    cause = LedgerUnusable(ledger="x", reason="doesn't answer", action="Check it.")
    summary = {"status": "failed", "error": error_facts(cause)}
    (alert,) = alerts_of("status", summary, 1, settings())
    assert (alert.event, alert.message) == ("failure", str(cause))


@pytest.mark.parametrize("shape", ["json", "slack"])
def test_a_real_listener_receives_the_alert(shape: str):
    """Generic JSON has the fields; Slack gets one text, its markup escaped."""
    with listening() as listener:
        rules = AlertSettings(webhook_url=SecretStr(listener.url), shape=shape)
        error = {"type": "BadSetting", "message": "a < b & c"}
        summary = {"status": "failed", "run_id": "r1", "error": error}
        send(alerts_of("push", summary, 1, settings()), rules)
    ((path, body),) = listener.received
    sent = json.loads(body)
    assert path == "/hook?token=s3cret"
    if shape == "json":
        assert (sent["event"], sent["message"]) == ("failure", "a < b & c")
        assert sent["facts"] == {"exit_code": 1, "run_id": "r1"}
    else:
        assert set(sent) == {"text"}
        assert "a &lt; b &amp; c" in sent["text"]
        assert "hiringcenter runs r1" in sent["text"]


def test_an_alert_that_cannot_be_delivered_is_a_warning(capsys: pytest.CaptureFixture[str]):
    """The run's own result stands; the webhook's token isn't shown."""
    with listening(status=500) as listener:
        send(
            alerts_of("pull", FAILED, 1, settings()),
            AlertSettings(webhook_url=SecretStr(listener.url)),
        )
    shown = "".join(capsys.readouterr())
    assert "alert.undelivered" in shown
    assert "HTTP 500" in shown
    assert "s3cret" not in shown


@pytest.mark.parametrize("where", ["http://127.0.0.1:9/s3cret", "http://[::1]:9/s3cret"])
def test_a_webhook_that_is_down_changes_nothing(capsys: pytest.CaptureFixture[str], where: str):
    """The run's result and exit code stay; so does whatever the run raised."""
    done = Result({"status": "failed", "error": {"type": "X", "message": "m"}}, exit_code=1)
    rules = settings(webhook_url=where)
    assert observed("pull", lambda _settings, _output: done)(rules, Output()) is done
    shown = "".join(capsys.readouterr())
    assert "alert.undelivered" in shown
    assert "s3cret" not in shown


def test_a_webhook_over_plain_http_is_refused():
    """Unless it is on this machine."""
    with pytest.raises(ConfigurationError, match="alerts.webhook_url.*plain http"):
        check_webhook(AlertSettings(webhook_url=SecretStr("http://example.com/hook")))


def test_observed_work_reports_what_it_raises():
    """An exception on its way to an exit code is reported before it is raised further."""
    with listening() as listener:

        def work(_settings: Settings, _output: Output) -> Result:
            raise ConfigurationError("no such thing")

        result = observed("pull", work)(settings(webhook_url=listener.url), Output())
    assert isinstance(result.error, ConfigurationError)
    ((_, body),) = listener.received
    assert json.loads(body)["message"] == "no such thing"
