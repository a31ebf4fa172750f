"""What all commands share: their options, and the way from work to exit code."""

from __future__ import annotations

import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pipelines.commands.output import Output
from pipelines.commands.result import Result, status_of_exit, worst
from pipelines.failure import error_facts, status_of
from pipelines.signals import StoppedEarly, ignore_signals

if TYPE_CHECKING:
    from connector.settings import Settings

Work = Callable[["Settings", Output], Result]


@dataclass(frozen=True)
class Options:
    """The options that every command has."""

    json: bool = False
    config: Path | None = None
    project: Path | None = None
    account: str | None = None
    all_accounts: bool = False
    verbosity: int = 0


_SHARED: dict[str, Any] = {
    "json": (
        Annotated[bool, typer.Option("--json", help="One JSON object as the last stdout line.")],
        False,
    ),
    "config": (
        Annotated[
            Path | None,
            typer.Option("--config", metavar="F", help="Settings file (config/hiringcenter.toml)."),
        ],
        None,
    ),
    "project": (
        Annotated[
            Path | None,
            typer.Option(
                "--project",
                metavar="DIR",
                help="Folder of config/hiringcenter.toml and .env (default: the nearest one up).",
            ),
        ],
        None,
    ),
    "account": (
        Annotated[
            str | None,
            typer.Option("--account", metavar="NAME", help="One of [accounts.<name>]."),
        ],
        None,
    ),
    "all_accounts": (
        Annotated[bool, typer.Option("--all-accounts", help="Each of [accounts.<name>].")],
        False,
    ),
    "verbose": (
        Annotated[
            int,
            typer.Option(
                "-v", "--verbose", count=True, show_default=False, help="More log lines; -vv all."
            ),
        ],
        0,
    ),
    "quiet": (
        Annotated[
            bool,
            typer.Option("-q", "--quiet", help="For cron: silent if all is well, else log lines."),
        ],
        False,
    ),
}


NEW_LEDGER: Any = typer.Option(
    "--new-ledger", help="Where the outbox was lost: a new one, people looked up first."
)


def common_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command(options, …)` the shared options; Typer sees them beside its own."""

    @functools.wraps(command)
    def with_options(*args: Any, **kwargs: Any) -> None:
        shared = {name: kwargs.pop(name) for name in _SHARED}
        quiet, verbose = shared.pop("quiet"), shared.pop("verbose")
        options = Options(**shared, verbosity=-1 if quiet else verbose)
        command(options, *args, **kwargs)

    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    shared_parameters = [
        inspect.Parameter(name, keyword_only, default=default, annotation=annotation)
        for name, (annotation, default) in _SHARED.items()
    ]
    with_options.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*own, *shared_parameters]
    )
    with_options.__annotations__ = {  # evaluated, since Typer looks names up in this module
        parameter.name: parameter.annotation for parameter in [*own, *shared_parameters]
    }
    del with_options.__wrapped__  # or Typer would look through it
    return with_options


def run_command(options: Options, work: Work) -> NoReturn:
    """Load the settings, do `work`, print its result, exit with its code."""
    from connector import logs

    os.umask(0o077)
    output = Output(json=options.json, verbosity=options.verbosity)
    logs.configure(_log_level(options, output))
    result = guarded(lambda: _for_accounts(options, work, output))
    ignore_signals()
    output.result(result)
    if result.error is not None:
        output.error(result.error)
    output.object(result.summary)
    sys.exit(result.exit_code)


def _log_level(options: Options, output: Output) -> int:
    """Beside a progress bar, only warnings."""
    return -1 if output.shows_progress and not options.verbosity else options.verbosity


def _for_accounts(options: Options, work: Work, output: Output) -> Result:
    from connector import logs
    from connector.errors import UsageError
    from connector.settings import account_settings, load

    settings = load(options.config, project=options.project)
    if settings.logs.format == "json":
        logs.configure(_log_level(options, output), shape="json")
    _apply_project(settings)
    if options.all_accounts:
        if options.account is not None or not settings.accounts:
            raise UsageError(
                "--all-accounts needs [accounts.<name>] in the settings, and no --account."
            )
        return _each_account(settings, work, output)
    if options.account is not None:
        settings = account_settings(settings, options.account)
    return work(settings, output)


def _apply_project(settings: Settings) -> None:
    """dlt reads its `.dlt/` in the project, not in the working folder; people hear what was odd."""
    from connector import logs

    project = settings.project
    folder = project.folder if project.uses_dlt_files else settings.state_path
    for name in ("DLT_PROJECT_DIR", "DLT_LOCAL_DIR"):  # read when dlt is first imported
        os.environ.setdefault(name, str(folder))
    log = logs.get_logger("settings")
    for note in project.notes:
        log.warning("settings.note", note=note)


def _each_account(settings: Settings, work: Work, output: Output) -> Result:
    from connector import logs
    from connector.settings import account_settings

    results: dict[str, Result] = {}
    for name in settings.accounts:
        logs.bind_account(name)
        own = account_settings(settings, name)
        result = guarded(functools.partial(work, own, output))
        if result.error is not None:
            output.error(result.error, account=name)
        results[name] = result
        if result.exit_code > 128:  # a signal stops the rest as well
            break
    code = worst([result.exit_code for result in results.values()])
    return Result(
        summary={
            "status": status_of_exit(code),
            "accounts": {name: result.summary for name, result in results.items()},
        },
        lines=[
            line for name, result in results.items() for line in (f"Account {name}:", *result.lines)
        ],
        exit_code=code,
        events=[
            (event, {"account": name, **facts})
            for name, result in results.items()
            for event, facts in result.events
        ],
        is_answer=any(result.is_answer for result in results.values()),
    )


def guarded(work: Callable[[], Result]) -> Result:
    """The result of `work`; a failed one for whatever it raises."""
    from connector.errors import ConnectorError, Interrupted, Unexpected
    from connector.logs import get_logger

    try:
        return work()
    except ConnectorError as error:
        return _failed(error, error.exit_code)
    except (StoppedEarly, KeyboardInterrupt) as error:
        stopped = Interrupted(getattr(error, "signal_number", signal.SIGINT))
        return _failed(stopped, stopped.exit_code)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - the one place that turns any failure into an exit
        get_logger("command").debug("command.unexpected", exc_info=error)
        return _failed(Unexpected(error), 1)


def _failed(error: Exception, exit_code: int) -> Result:
    facts = {"status": status_of(error), "error": error_facts(error)}
    return Result(summary=facts, exit_code=exit_code, error=error)
