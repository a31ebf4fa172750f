"""`hiringcenter sync`: pull, then every push job of the configuration, in order."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.common import NEW_LEDGER, Options, common_options, guarded, run_command
from pipelines.commands.observed import observed
from pipelines.commands.output import ALREADY_RUNNING, Output
from pipelines.commands.result import Result, status_of_exit, worst

if TYPE_CHECKING:
    from connector.settings import Settings


def register(app: typer.Typer) -> None:
    app.command(
        "sync",
        short_help="Pull, then every push job of the settings",
        epilog="Example: hiringcenter sync --json",
    )(_sync)


@common_options
def _sync(options: Options, new_ledger: Annotated[bool, NEW_LEDGER] = False) -> None:
    """Pull everything, then run every push job of the configuration; a part that fails doesn't
    stop the others."""
    run_command(options, observed("sync", partial(sync, new_ledger=new_ledger)))


def sync(settings: Settings, output: Output, *, new_ledger: bool = False) -> Result:
    """Every part in order; the exit code is the worst of them."""
    from connector.logs import redact
    from connector.source.fields import RESOURCES
    from pipelines.commands.pull import run_pull
    from pipelines.pull.scanning import Wanted

    assert settings.key  # a missing key is one error, not one per part
    parts = {"pull": guarded(lambda: run_pull(settings, Wanted(RESOURCES), output))}
    for name in settings.jobs:
        if any(part.exit_code > 128 for part in parts.values()):
            break
        parts[f"push {name}"] = guarded(
            partial(_push, settings, name, output, new_ledger=new_ledger)
        )
    code = worst([part.exit_code for part in parts.values()])
    told = next((name for name, part in parts.items() if part.exit_code == code), "")
    others = {  # what went wrong beside the error that stands for all
        name: redact(str(part.error)) for name, part in parts.items() if part.error and name != told
    }
    pull, *pushes = parts.values()
    return Result(
        summary={
            "status": status_of_exit(code),
            "pull": pull.summary,
            "push": dict(zip(settings.jobs, (part.summary for part in pushes), strict=False)),
        },
        lines=[
            line
            for name, part in parts.items()
            for line in (
                f"{name}:",
                *part.lines,
                *([f"Error: {others[name]}"] if name in others else []),
            )
        ],
        exit_code=code,
        events=[
            (event, {"part": name, **facts})
            for name, part in parts.items()
            if part.exit_code not in (0, ALREADY_RUNNING)
            for event, facts in (
                *part.events,
                *([("sync.failed", {"message": others[name]})] if name in others else []),
            )
        ],
        error=parts[told].error,
    )


def _push(settings: Settings, name: str, output: Output, *, new_ledger: bool) -> Result:
    from pipelines.commands.push import run_push
    from pipelines.push.push_input import job_request

    request = replace(job_request(settings, name), new_ledger=new_ledger)
    return run_push(settings, request, output)
