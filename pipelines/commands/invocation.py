"""How a command runs: its options, the settings, each account, its result and exit code.

Importing a module of this package imports nothing heavy (dlt, sqlalchemy, httpx, pydantic, rich):
`hiringcenter --help` imports them all.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from typer.core import TyperCommand

from pipelines.commands.output import Output, Result, guarded, status_of_exit, worst
from pipelines.running.signals import ignore_signals

if TYPE_CHECKING:
    from connector.settings import Settings

Work = Callable[["Settings", Output], Result]

app = typer.Typer(
    name="hiringcenter",
    help="HiringCenter to your warehouse and back, at the pace the API allows.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class GroupedCommand(TyperCommand):
    """A command whose help lists its options by group (`option`'s), and the shared ones last."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str | None, list[tuple[str, str]]] = {}
        for each in self.get_params(ctx):
            if (shown := each.get_help_record(ctx)) is not None:
                groups.setdefault(getattr(each, "rich_help_panel", None), []).append(shown)
        shared = groups.pop(None, [])
        titled = {**groups, "As in every command": shared} if groups else {"Options": shared}
        width = max(len(names) for rows in titled.values() for names, _ in rows)
        for title, rows in titled.items():
            with formatter.section(title):
                formatter.write_dl([(names.ljust(width), text) for names, text in rows])


def option(
    usage: str, text: str, default: Any = None, *, group: str | None = None, **more: Any
) -> Any:
    """A command's option, as its help shows it: `--last N`, `-v --verbose`. group: the heading that
    it is listed under, in a command with many."""
    if group is not None:
        more["rich_help_panel"] = group
    words = usage.split()
    names = [word for word in words if word.startswith("-")]
    metavar = next((word for word in words if not word.startswith("-")), None)
    return typer.Option(default, *names, metavar=metavar, help=text, **more)


def flag(usage: str, text: str, *, group: str | None = None) -> Any:
    """An option without a value."""
    return option(usage, text, default=False, group=group)


def argument(metavar: str) -> Any:
    """A command's optional argument. The command's own text describes it: Typer's list of arguments
    would call it `FILE <str>`."""
    return typer.Argument(None, metavar=metavar, hidden=True)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options that every command has; Typer reads them from the signature."""

    json: bool = flag("--json", "Print one JSON object as the last line of stdout.")
    config: Path | None = option("--config F", "Settings file (default: config/hiringcenter.toml).")
    project: Path | None = option(
        "--project DIR",
        "Folder with config/hiringcenter.toml and .env (default: the nearest one upwards).",
    )
    account: str | None = option("--account NAME", "Work for the account [accounts.NAME].")
    all_accounts: bool = flag("--all-accounts", "Work for each account, one after the other.")
    verbose: int = option(
        "-v --verbose", "Log more; -vv logs everything.", default=0, count=True, show_default=False
    )
    quiet: bool = flag("-q --quiet", "For cron: silent if all is well, otherwise log lines.")


def command(
    name: str,
    *,
    short_help: str,
    example: str,
    observe: bool = False,
    options_of: Callable[..., Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Register `work(settings, output, …options)` as a command, with the shared options.

    example: for the help; several are separated by blank lines. observe: send the alerts and the
    telemetry that the settings ask for. options_of: a function that has options too, which `work`
    gets as keywords: commands share options without repeating them. fixed: values of some of these,
    which then are no options of this command.
    """

    def register(work: Callable[..., Result]) -> Callable[..., Result]:
        # of the types in the signature, `Settings` alone isn't imported at run time
        own = _options(work)
        if options_of is not None:
            own += [each for each in _options(options_of) if each.name not in (fixed or {})]
        shared = _parameters(Options)

        def run(**given: Any) -> None:
            options = Options(**{each.name: given.pop(each.name) for each in shared})
            bound: Work = partial(work, **(fixed or {}), **given)
            run_command(options, observed(name, bound) if observe else bound)

        run.__doc__ = work.__doc__
        run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in [*own, *shared]}
        examples = "\n\n".join(f"Example: {line}" for line in example.split("\n\n"))
        app.command(name, cls=GroupedCommand, short_help=short_help, epilog=examples)(run)
        return work

    return register


def _options(work: Callable[..., Any]) -> list[inspect.Parameter]:
    """Its parameters but for settings and output, and for options that it gets from elsewhere."""
    own = _parameters(work, locals={"Settings": None, "PushRequest": None})[2:]
    return [each for each in own if each.default is not each.empty]


def _parameters(function: Callable[..., Any], **evaluation: Any) -> list[inspect.Parameter]:
    signature = inspect.signature(function, eval_str=True, **evaluation)
    return [each.replace(kind=each.KEYWORD_ONLY) for each in signature.parameters.values()]


def observed(kind: str, work: Work) -> Work:
    """`work` in a telemetry span, with alerts about its result. kind: pull, push, …"""

    def watched(settings: Settings, output: Output) -> Result:
        from pipelines.running.alerts import alerts_of, check_webhook, send
        from pipelines.running.telemetry import run_span

        check_webhook(settings.alerts)
        with run_span(kind, settings) as report:
            result = guarded(lambda: work(settings, output))
            report(result.summary, result.exit_code)
            send(alerts_of(kind, result.summary, result.exit_code, settings), settings.alerts)
        return result

    return watched


def run_command(options: Options, work: Work) -> NoReturn:
    """Load the settings, run `work`, print its result and exit with its code."""
    from connector import logs

    os.umask(0o077)
    verbosity = -1 if options.quiet else options.verbose
    output = Output(json=options.json, verbosity=verbosity, all_accounts=options.all_accounts)
    logs.configure(output.log_level)
    result = guarded(lambda: _for_accounts(options, work, output))
    ignore_signals()
    output.result(result)
    if result.error is not None:
        output.error(result.error)
    output.object(result.summary)
    sys.exit(result.exit_code)


def _for_accounts(options: Options, work: Work, output: Output) -> Result:
    from connector import logs
    from connector.errors import UsageError
    from connector.settings import account_settings, load

    settings = load(options.config, project=options.project)
    if settings.logs.format == "json":
        logs.configure(output.log_level, shape="json")
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
    """Make dlt read the `.dlt/` of the project, not of the working folder; log the project's notes
    as warnings."""
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
        result = guarded(partial(work, account_settings(settings, name), output))
        if result.error is not None:
            output.error(result.error, account=name)
        results[name] = result
        if result.exit_code > 128:  # a signal stops the other accounts too
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
