"""`hiringcenter check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from pipelines.commands.common import Options, common_options, run_command
from pipelines.commands.output import Output
from pipelines.commands.result import Result, worst

if TYPE_CHECKING:
    from connector.settings import Settings


def register(app: typer.Typer) -> None:
    app.command(
        "check",
        short_help="Is everything ready? Key, destination, budget, outbox, clock",
        epilog="Example: hiringcenter check --account east",
    )(_check)


@common_options
def _check(options: Options) -> None:
    """Key, permissions, destination, budget, outbox and clock: each ok, or what to do."""
    run_command(options, _work)


def _work(settings: Settings, output: Output) -> Result:  # noqa: ARG001 - every work gets both
    from pipelines.checks import run_checks

    checks = run_checks(settings)
    fine = all(check.ok for check in checks)
    return Result(
        summary={
            "status": "ok" if fine else "failed",
            "checks": [
                {"name": check.name, "ok": check.ok, "detail": check.detail, **check.facts}
                for check in checks
            ],
        },
        lines=[
            f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.detail}" for check in checks
        ],
        exit_code=worst([0 if check.ok else check.exit_code for check in checks]),
        events=[
            ("check.failed", {"check": check.name, "detail": check.detail})
            for check in checks
            if not check.ok
        ],
    )
