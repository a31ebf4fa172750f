"""`hiringcenter check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from pipelines.commands.common import Options, common_options, run_command
from pipelines.commands.output import Output
from pipelines.commands.result import Result

if TYPE_CHECKING:
    from connector.settings import Settings


def register(app: typer.Typer) -> None:
    app.command(
        "check",
        short_help="Is everything ready? Key, destination, budget, clock",
        epilog="Example: hiringcenter check --account east",
    )(_check)


@common_options
def _check(options: Options) -> None:
    """Key, permissions, destination, budget and clock: each ok, or what to do."""
    run_command(options, _work)


def _work(settings: Settings, output: Output) -> Result:  # noqa: ARG001 - every work gets both
    from dataclasses import asdict

    from pipelines.checks import run_checks

    checks = run_checks(settings)
    fine = all(check.ok for check in checks)
    return Result(
        summary={
            "status": "ok" if fine else "failed",
            "checks": [asdict(check) for check in checks],
        },
        lines=[
            f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.detail}" for check in checks
        ],
        exit_code=0 if fine else 1,
        events=[
            ("check.failed", {"check": check.name, "detail": check.detail})
            for check in checks
            if not check.ok
        ],
    )
