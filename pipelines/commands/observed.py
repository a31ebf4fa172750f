"""Work that is watched: a span around it, and alerts about how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.commands.common import Work
from pipelines.commands.output import Output
from pipelines.commands.result import Result
from pipelines.failure import error_facts

if TYPE_CHECKING:
    from connector.settings import Settings


def observed(kind: str, work: Work) -> Work:
    """`work` with the alerts and the telemetry that the settings ask for. kind: pull, push, …"""

    def watched(settings: Settings, output: Output) -> Result:
        from pipelines.alerts import check_webhook
        from pipelines.telemetry import run_span

        check_webhook(settings.alerts)
        with run_span(kind, settings) as report:
            try:
                result = work(settings, output)
            except Exception as error:
                code: int = getattr(error, "exit_code", 1)
                failed = {"status": "failed", "error": error_facts(error)}
                report(failed, code)
                _alert(kind, failed, code, settings)
                raise
            report(result.summary, result.exit_code)
        _alert(kind, result.summary, result.exit_code, settings)
        return result

    return watched


def _alert(kind: str, summary: Any, exit_code: int, settings: Settings) -> None:
    from pipelines.alerts import alerts_of, send

    send(alerts_of(kind, summary, exit_code, settings), settings.alerts)
