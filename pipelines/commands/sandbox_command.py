"""`hiringcenter sandbox`: a local mock of the API."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pipelines.commands.invocation import Output, Result, command, flag, option

if TYPE_CHECKING:
    from connector.sandbox import Sandbox
    from connector.settings import Settings


@command(
    "sandbox",
    short_help="Run a local mock of the API; no key needed",
    example="hiringcenter sandbox --port 8808 --prospects 3000 --fault error_503=0.1",
)
def _sandbox(
    _settings: Settings,
    output: Output,
    port: int = option(
        "--port N", "Port on 127.0.0.1; 0 = any free one.", default=8808, min=0, max=65535
    ),
    prospects: int = option("--prospects N", "Number of prospects at the start.", default=300),
    notes: int = option("--notes N", "Number of notes at the start.", default=200),
    tasks: int = option("--tasks N", "Number of tasks at the start.", default=120),
    meetings: int = option("--meetings N", "Number of meetings at the start.", default=70),
    seed: int = option("--seed N", "The same seed gives the same data.", default=1),
    today: bool = flag("--today", "Date the data around today instead of 2026-01-01."),
    api_key: str = option("--api-key KEY", "The API key that it accepts.", default="sandbox-key"),
    revision: Literal["pagination", "next_token", "legacy", "bare"] = option(
        "--revision", "The shape of list responses.", default="pagination"
    ),
    limits: str = option(
        "--limits COUNT/SECONDSs,…", "Rate limits, or none.", default="300/60s,6000/3600s"
    ),
    window_kind: Literal["sliding", "fixed", "weighted", "bucket"] = option(
        "--window-kind", "How the rate limits count requests.", default="sliding"
    ),
    latency: float = option("--latency S", "Delay of every response, in seconds.", default=0.0),
    fault: list[str] | None = option(
        "--fault NAME=PROBABILITY", "Inject a fault, such as drop_after=0.05. Repeatable."
    ),
    more: list[str] | None = option(
        "--option NAME=JSON", "Set any field of connector.sandbox.SandboxOptions. Repeatable."
    ),
) -> Result:
    """Run a local mock of the API, to try things out without a key; Ctrl-C stops it. It prints
    the two settings that make the other commands use it. With --json, the object is printed as
    soon as the server is ready."""
    from connector.errors import UsageError
    from connector.sandbox import SandboxOptions, change_options, serve, start_of_today_ms

    options = SandboxOptions(
        prospects=prospects, notes=notes, tasks=tasks, meetings=meetings, seed=seed,
        api_key=api_key, envelope=revision, window_kind=window_kind, latency_s=latency,
    )  # fmt: skip
    if today:
        options.base_time_ms = start_of_today_ms()
    more_options = {
        "windows": limits,
        "faults": _pairs("--fault", fault),
        **_pairs("--option", more),
    }
    try:
        windows = _windows(more_options["windows"])
        change_options(options, {**more_options, "windows": windows})
    except (TypeError, ValueError) as error:
        raise UsageError(f"{error}. See hiringcenter sandbox --help.") from None
    try:
        number = serve(options, port, partial(_announce, output))
    except OSError as error:
        raise UsageError(
            f"Port {port} can't be used: {error.strerror}. Choose another one with --port."
        ) from None
    raise SystemExit(128 + number)


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
            f"--limits {value!r}: expected count/seconds, such as 300/60s,6000/3600s"
        ) from None


def _pairs(name: str, values: list[str] | None) -> dict[str, Any]:
    from connector.errors import UsageError

    pairs = [value.partition("=") for value in values or ()]
    bad = next((left for left, equals, _ in pairs if not equals), None)
    if bad is not None:
        raise UsageError(f"{name}: expected NAME=VALUE, got {bad!r}.")
    return {left: _json_or_word(right) for left, _, right in pairs}


def _json_or_word(value: str) -> Any:
    with suppress(json.JSONDecodeError):
        return json.loads(value)
    return value


def _announce(output: Output, sandbox: Sandbox) -> None:
    output.text(
        [
            f"The sandbox is running at {sandbox.url} (made-up data only).",
            f"  export HIRINGCENTER_BASE_URL={sandbox.url}",
            f"  export HIRINGCENTER_API_KEY={sandbox.api_key}",
            "Ctrl-C stops it.",
        ]
    )
    output.object({"url": sandbox.url, "port": sandbox.port, "control_url": sandbox.control_url})
