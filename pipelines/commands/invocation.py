"""How a command runs: its options, the settings, each account, its result and exit code.

Facts go to stdout, everything else to stderr.

Importing a module of this package imports nothing heavy (dlt, sqlalchemy, httpx, pydantic, rich):
`hiringcenter --help` imports them all.
"""

from __future__ import annotations

import inspect
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import orjson
import typer
from typer.core import TyperCommand

from connector.clock import StoppedEarly, ignore_signals
from connector.errors import (
    ConnectorError,
    Interrupted,
    Unexpected,
    UsageError,
    printable,
    status_of,
)
from pipelines.running.progress import ProgressOf, RunReport, progress_of

if TYPE_CHECKING:
    from connector.settings import Settings

# --- results, and where they are written ----------------------------------------------------------

ALREADY_RUNNING = 75
_WORST_FIRST = (2, 1, 75, 3, 0)


@dataclass(frozen=True)
class Result:
    """summary: the JSON object of `--json`. lines: text or rich renderables for people.

    error: what ended the work early, shown on stderr; `summary` has it too. events: log lines for
    a result that needs a look: (name, fields). is_answer: the text is what the user asked for, not
    the report of a run.
    """

    summary: Mapping[str, Any]
    lines: Sequence[Any] = field(default_factory=tuple)
    exit_code: int = 0
    error: Exception | None = None
    events: Sequence[tuple[str, Mapping[str, Any]]] = ()
    is_answer: bool = False

    @classmethod
    def of(cls, report: RunReport, lines: Sequence[Any], **more: Any) -> Result:
        """That of a run."""
        return cls(report.summary, lines, report.exit_code, report.error, **more)


def guarded(work: Callable[[], Result]) -> Result:
    """The result of `work`; a failed one if it raises."""
    try:
        return work()
    except BrokenPipeError:
        raise
    except (Exception, StoppedEarly, KeyboardInterrupt) as error:  # noqa: BLE001 - any failure
        return failed_result(error)


def failed_result(error: BaseException) -> Result:
    """The result of a command that ended with `error`."""
    import structlog

    from connector.logs import error_facts, get_logger

    if isinstance(error, StoppedEarly | KeyboardInterrupt):
        error = Interrupted(getattr(error, "signal_number", signal.SIGINT))
    elif not isinstance(error, ConnectorError):
        if structlog.is_configured():  # unconfigured, it writes to stdout
            get_logger("command").debug("command.unexpected", exc_info=error)
        error = Unexpected(error)
    facts = {"status": status_of(error), "error": error_facts(error)}
    return Result(summary=facts, exit_code=error.exit_code, error=error)


def worst(exit_codes: Sequence[int]) -> int:
    """The exit code for several parts: a signal's before all others, then 2, 1, 75, 3, 0."""
    signals = [code for code in exit_codes if code > 128]
    if signals:
        return signals[0]
    return min(exit_codes, key=_WORST_FIRST.index, default=0)


def status_of_exit(code: int) -> str:
    """The status of several runs whose common exit code is `code`."""
    if code in (0, 3):
        return "ok"
    return "stopped" if code > 128 else "failed"


class _LenientText(TextIOWrapper):
    """A text stream that drops what can't be written: a run that has sent data must finish with
    its own exit code, even if no one can read its messages."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            super().flush()


def keep_standard_streams() -> None:
    """Make stderr one that never fails, and open closed descriptors on /dev/null.

    Otherwise the next file to be opened, a ledger or a socket, would take the number of a closed
    one, and receive what libraries print.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None or type(sys.stderr) is TextIOWrapper:
        raw = open(2, "wb", buffering=0, closefd=False)  # noqa: SIM115
        sys.stderr = _LenientText(raw, errors="backslashreplace", write_through=True)


class Output:
    """json: stdout gets exactly one JSON object (UTF-8), as its last line; text goes to stderr.

    verbosity: below 0, quiet; above 0, tracebacks of unexpected errors. all_accounts: the command
    works for each account in turn. is_quiet: for cron: no output if all is well, otherwise log
    lines. shows_progress: with a bar, on a terminal. log_level: for `logs.configure`; with a bar,
    only warnings.
    """

    def __init__(
        self, *, json: bool = False, verbosity: int = 0, all_accounts: bool = False
    ) -> None:
        self.json, self.all_accounts = json, all_accounts
        self.is_quiet = verbosity < 0
        self.shows_progress = sys.stderr.isatty() and not self.is_quiet
        self.log_level = -1 if self.shows_progress and not verbosity else verbosity
        if isinstance(sys.stdout, TextIOWrapper):
            # a name that it can't encode must not fail the run
            sys.stdout.reconfigure(errors="backslashreplace")

    def result(self, result: Result) -> None:
        """Write a command's result as text. If quiet, a run is reported only if it needs a look;
        an answer (`runs`, `budget`) always is."""
        if not self.is_quiet or result.is_answer:
            self.text(result.lines)
        elif result.exit_code not in (0, ALREADY_RUNNING):
            from connector.logs import get_logger

            for event, facts in result.events:
                get_logger("command").warning(event, **facts)

    def progress_of(self, kind: str) -> ProgressOf:
        """What shows how far a run of `kind` has come: a bar, or log lines."""
        return progress_of(kind, bar=self.shows_progress)

    def text(self, lines: Iterable[Any]) -> None:
        """Write strings and rich renderables, for people."""
        stream = sys.stderr if self.json else sys.stdout
        for line in lines:
            if isinstance(line, str):
                stream.write(printable(line) + "\n")
            else:
                self._render(line, stream)
        stream.flush()

    def error(self, error: BaseException, *, account: str | None = None) -> None:
        """Write one line: what happened (to which account) and what to do next, without secrets;
        below it, the error's notes, which are only for the person at the terminal.

        With `-q` it is a log line with a time and the run's id instead, and a lock that another
        run holds isn't reported.
        """
        from connector.logs import get_logger, redact

        if self.is_quiet:
            if getattr(error, "exit_code", 1) != ALREADY_RUNNING:
                get_logger("command").error("command.failed", message=redact(str(error)))
            return
        whose = "Error: " if account is None else f"Error (account {account}): "
        if isinstance(error, Interrupted) and account is None:  # as the user wanted
            whose = ""
        notes = "".join(f"  {redact(note)}\n" for note in getattr(error, "__notes__", ()))
        sys.stderr.write(f"{whose}{redact(str(error))}\n{notes}")

    def object(self, summary: Any) -> None:
        """Write the summary as JSON, if `--json` asked for it."""
        if self.json:
            options = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z
            sys.stdout.flush()
            try:
                text = orjson.dumps(summary, default=str, option=options).decode()
            except TypeError:  # a lone surrogate, as in the name of a file
                text = json.dumps(summary, default=str)
            sys.stdout.buffer.write(_escaped(text).encode() + b"\n")
            sys.stdout.buffer.flush()

    @staticmethod
    def _render(renderable: Any, stream: Any) -> None:
        from rich.console import Console
        from rich.segment import Segment

        class PrintableConsole(Console):
            """Cells of a table may hold names from files and servers."""

            def render(self, *args: Any, **kwargs: Any) -> Iterator[Segment]:
                for segment in super().render(*args, **kwargs):
                    yield Segment(printable(segment.text), segment.style, segment.control)

        width = None if stream.isatty() else 160
        PrintableConsole(file=stream, highlight=False, width=width).print(renderable)


def _escaped(json_text: str) -> str:
    """The same JSON value, with characters that `printable` would drop written as \\uXXXX."""
    if printable(json_text) == json_text:
        return json_text
    return "".join(char if printable(char) == char else f"\\u{ord(char):04x}" for char in json_text)


# --- from options to a result ---------------------------------------------------------------------

Work = Callable[["Settings", Output], Result]

commands: dict[str, Callable[[typer.Typer], None]] = {}
"""By name: what adds a command to an application. To read the options of all of them takes longer
than the requests of a small pull."""


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
    which then aren't options of this command.
    """

    def register(work: Callable[..., Result]) -> Callable[..., Result]:
        def add_to(app: typer.Typer) -> None:
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

        commands[name] = add_to
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
        from pipelines.running.monitoring import alerts_of, check_webhook, run_span, send

        check_webhook(settings.alerts)
        with run_span(kind, settings) as report:
            result = guarded(lambda: work(settings, output))
            report(result.summary, result.exit_code)
            send(alerts_of(kind, result.summary, result.exit_code, settings), settings.alerts)
        return result

    return watched


def run_command(options: Options, work: Work) -> NoReturn:
    """Load the settings, run `work`, print its result and exit with its code."""
    _leave_out_what_prints()
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


def _leave_out_what_prints() -> None:
    """structlog and httpx import rich, click and pygments where they are installed, structlog for
    tracebacks and httpx for a command line of its own: a tenth of a small pull, and never used."""
    modules: dict[str, Any] = sys.modules
    modules.setdefault("httpx._main", None)  # None: importing it fails
    if "rich" not in modules:
        modules["rich"] = None
        import structlog  # noqa: F401

        del modules["rich"]


def _for_accounts(options: Options, work: Work, output: Output) -> Result:
    from connector import logs
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
    """Make dlt read the `.dlt/` and the `.env` of the project, not of the working folder; log the
    project's notes as warnings."""
    from connector import logs

    project = settings.project
    folder = project.folder if project.uses_dlt_files else settings.state_path
    for name in ("DLT_PROJECT_DIR", "DLT_LOCAL_DIR"):  # read when dlt is first imported
        os.environ.setdefault(name, str(folder))
    for name, value in project.variables.items():
        if name.upper().startswith("DESTINATION__") and value is not None:
            os.environ.setdefault(name.upper(), value)
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
