"""`hiringcenter sandbox`: the embedded API on a port of this machine."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from pipelines.commands.common import Options, common_options, run_command
from pipelines.commands.output import Output

if TYPE_CHECKING:
    from connector.sandbox import Sandbox, SandboxOptions
    from connector.settings import Settings

_HELP = """Run a local mock of the API, to try things out without a key; Ctrl-C stops it. It prints
the two settings that make the other commands use it."""
_EXAMPLE = "Example: hiringcenter sandbox --port 8808 --prospects 3000 --fault error_503=0.1"
Revision = Literal["pagination", "next_token", "legacy", "bare"]
WindowKind = Literal["sliding", "fixed", "weighted", "bucket"]


def register(app: typer.Typer) -> None:
    app.command(
        "sandbox", short_help="Run a local mock of the API; no key needed", help=_HELP,
        epilog=_EXAMPLE,
    )(sandbox)  # fmt: skip


@common_options
def sandbox(
    common: Options,
    port: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=65535, help="Port on 127.0.0.1; 0 = any free one."),
    ] = 8808,
    prospects: Annotated[int, typer.Option(metavar="N", help="Prospects to begin with.")] = 300,
    notes: Annotated[int, typer.Option(metavar="N", help="Notes to begin with.")] = 200,
    tasks: Annotated[int, typer.Option(metavar="N", help="Tasks to begin with.")] = 120,
    meetings: Annotated[int, typer.Option(metavar="N", help="Meetings to begin with.")] = 70,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same data.")] = 1,
    today: Annotated[
        bool, typer.Option("--today", help="Data around today, instead of 2026-01-01.")
    ] = False,
    api_key: Annotated[
        str, typer.Option(metavar="KEY", help="The key that it accepts.")
    ] = "sandbox-key",
    revision: Annotated[Revision, typer.Option(help="How lists are wrapped.")] = "pagination",
    limits: Annotated[
        str, typer.Option(metavar="COUNT/SECONDSs,…", help="Rate windows, or none.")
    ] = "300/60s,6000/3600s",
    window_kind: Annotated[WindowKind, typer.Option(help="How windows count.")] = "sliding",
    latency: Annotated[
        float, typer.Option(metavar="S", help="Seconds that each answer takes.")
    ] = 0.0,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PROBABILITY", help="Such as drop_after=0.05. Repeatable."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=JSON", help="Any field of connector.sandbox.SandboxOptions. Repeatable."
        ),
    ] = None,
) -> None:
    """Serve until Ctrl-C; with --json the one object is printed as soon as the port answers."""
    changes: dict[str, Any] = {
        "prospects": prospects,
        "notes": notes,
        "tasks": tasks,
        "meetings": meetings,
        "seed": seed,
        "api_key": api_key,
        "envelope": revision,
        "windows": limits,
        "window_kind": window_kind,
        "latency_s": latency,
        "faults": _pairs("--fault", fault),
        **_pairs("--option", option),
    }
    run_command(common, functools.partial(_serve, port, changes, today))


def _serve(
    port: int, changes: dict[str, Any], today: bool, _settings: Settings, output: Output
) -> NoReturn:
    from connector.errors import UsageError
    from connector.sandbox import serve

    options = _sandbox_options(changes, today=today)
    try:
        number = serve(options, port, functools.partial(_announce, output))
    except OSError as error:
        raise UsageError(
            f"Port {port} can't be served: {error.strerror}. Choose another one with --port."
        ) from None
    raise SystemExit(128 + number)


def _sandbox_options(changes: dict[str, Any], *, today: bool) -> SandboxOptions:
    from connector.errors import UsageError
    from connector.sandbox import SandboxOptions, change_options, start_of_today_ms

    options = SandboxOptions()
    if today:
        options.base_time_ms = start_of_today_ms()
    try:
        change_options(options, {**changes, "windows": _windows(changes["windows"])})
    except (TypeError, ValueError) as error:
        raise UsageError(f"{error}. See hiringcenter sandbox --help.") from None
    return options


def _windows(value: Any) -> Any:
    """`300/60s,6000/3600s` → pairs of count and seconds; `none` = unlimited."""
    if not isinstance(value, str):
        return value
    if value == "none":
        return None
    try:
        pairs = [window.strip().removesuffix("s").split("/") for window in value.split(",")]
        return [[int(count), float(seconds)] for count, seconds in pairs]
    except ValueError:
        raise ValueError(
            f"--limits {value!r}: expected count/seconds, as 300/60s,6000/3600s"
        ) from None


def _pairs(flag: str, values: list[str] | None) -> dict[str, Any]:
    pairs = [value.partition("=") for value in values or ()]
    bad = next((name for name, equals, _ in pairs if not equals), None)
    if bad is not None:
        raise typer.BadParameter(f"expected NAME=VALUE, got {bad!r}", param_hint=flag)
    return {name: _json_or_word(value) for name, _, value in pairs}


def _json_or_word(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _announce(output: Output, sandbox: Sandbox) -> None:
    output.text(
        [
            f"The sandbox answers at {sandbox.url} (data of its own; nothing real).",
            f"  export HIRINGCENTER_BASE_URL={sandbox.url}",
            f"  export HIRINGCENTER_API_KEY={sandbox.api_key}",
            "Ctrl-C stops it.",
        ]
    )
    output.object({"url": sandbox.url, "port": sandbox.port, "control_url": sandbox.control_url})
