"""`hiringcenter sandbox`, `webhooks` and `watch`: a mock of the API, and changes in seconds."""

from __future__ import annotations

import json
import time
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from connector.clock import wall_ms
from connector.errors import ConnectorError, Refused, UsageError, did_you_mean
from pipelines.commands.invocation import Output, Result, argument, command, flag, option
from pipelines.running.progress import parse_duration_s, plural, utc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connector.api.client import ApiClient
    from connector.sandbox import Sandbox
    from connector.settings import Settings
    from pipelines.pull.drain import DrainReport


_DAY_S = 86_400


@command(
    "sandbox",
    short_help="Run a local mock of the API; no key needed",
    example="hiringcenter sandbox --port 8808 --fault error_503=0.1",
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
        "--revision NAME",
        "The shape of list responses: pagination, next_token, legacy or bare.",
        default="pagination",
    ),
    limits: str = option(
        "--limits LIMITS", "Rate limits, COUNT/SECONDSs,…, or none.", default="300/60s,6000/3600s"
    ),
    window_kind: Literal["sliding", "fixed", "weighted", "bucket"] = option(
        "--window-kind KIND",
        "How the rate limits count: sliding, fixed, weighted or bucket.",
        default="sliding",
    ),
    latency: float = option("--latency S", "Delay of every response, in seconds.", default=0.0),
    fault: list[str] | None = option(
        "--fault NAME=P", "Inject a fault with this probability: drop_after=0.05. Repeatable."
    ),
    more: list[str] | None = option(
        "--option NAME=JSON", "Set any field of connector.sandbox.SandboxOptions. Repeatable."
    ),
) -> Result:
    """Run a local mock of the API, to try things out without a key; Ctrl-C stops it. It prints
    the two settings that make the other commands use it. With --json, the object is printed as
    soon as the server is ready."""
    from connector.sandbox import SandboxOptions, change_options, serve

    options = SandboxOptions(
        prospects=prospects, notes=notes, tasks=tasks, meetings=meetings, seed=seed,
        api_key=api_key, envelope=revision, window_kind=window_kind, latency_s=latency,
    )  # fmt: skip
    if today:
        options.base_time_ms = int(time.time() // _DAY_S * _DAY_S * 1000)
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
    from connector.settings import parse_rate_limits

    if not isinstance(value, str):
        return value
    try:
        limits = () if value == "none" else parse_rate_limits(value)
    except ValueError as error:
        raise ValueError(f"--limits {value!r}: {error}") from None
    return [(each.limit, each.length_s) for each in limits]


def _pairs(name: str, values: list[str] | None) -> dict[str, Any]:
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


# --- webhooks and watch ---------------------------------------------------------------------------

_ACTIONS = ("serve", "drain", "subscribe", "list", "poll")
_WHERE = "HiringCenter, Settings -> API / Webhooks"
_EXAMPLES = """hiringcenter webhooks serve --port 8807

hiringcenter webhooks drain --every 10s

hiringcenter webhooks subscribe https://hooks.example.com/ --save"""


@command(
    "webhooks",
    short_help="Receive signed events, and look up the people they name",
    example=_EXAMPLES,
)
def _webhooks(
    settings: Settings,
    output: Output,
    action: str | None = argument("ACTION"),
    url: str | None = argument("URL"),
    host: str = option("--host NAME", "Address to listen on (serve).", default="127.0.0.1"),
    port: int = option("--port N", "Port to listen on (serve).", default=8807, min=0, max=65535),
    every: str | None = option("--every TIME", "Repeat at this interval: 10s, 1m."),
    event: Literal["prospect.created", "prospect.updated"] | None = option(
        "--event TYPE", "Subscribe only to prospect.created or prospect.updated."
    ),
    save: bool = flag("--save", "Put the secret into the project's .env instead of printing it."),
) -> Result:
    """Receive events (serve), look up the people they name (drain), register a URL (subscribe),
    show what was registered and received (list), or show the poll feed (poll)."""
    if action not in _ACTIONS:
        hint = did_you_mean(action or "", _ACTIONS)
        raise UsageError(f"webhooks needs one of {', '.join(_ACTIONS)}.{hint}")
    if url is not None and action != "subscribe":
        raise UsageError(f"webhooks {action} takes no URL.")
    if action == "serve":
        return _serve(settings, output, host, port)
    if action == "drain":
        return run_drain(settings, output, every)
    if action == "subscribe":
        if url is None:
            raise UsageError(
                "webhooks subscribe needs the URL of your receiver, such as "
                "https://hooks.example.com/."
            )
        return subscribe(settings, url, [event] if event else None, save=save)
    return list_events(settings) if action == "list" else show_poll(settings)


@command(
    "watch",
    short_help="Load new prospects within seconds, without a public URL",
    example="hiringcenter watch --every 10s",
)
def _watch(
    settings: Settings,
    output: Output,
    every: str = option("--every TIME", "How often to ask the poll feed.", default="10s"),
) -> Result:
    """Poll for new prospects and load them, for users without a public URL for webhooks. Edits
    aren't found. Ctrl-C stops it."""
    return run_drain(settings, output, every, watches=True)


# --- serve and drain ------------------------------------------------------------------------------


def _serve(settings: Settings, output: Output, host: str, port: int) -> Result:
    from connector.webhooks.receiver import serve
    from pipelines.destination.identity import prepare_state_dir
    from pipelines.running.monitoring import Alert, check_webhook, send

    if output.all_accounts:
        raise UsageError("One receiver accepts all accounts' events: leave out --all-accounts.")
    check_webhook(settings.alerts)
    prepare_state_dir(settings)

    def alert(name: str, message: str) -> None:
        facts = {"alert": name}
        send([Alert("webhooks", "webhooks", message, settings.account, facts)], settings.alerts)

    def announce(port: int) -> None:
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        output.text([f"Receiving webhooks at {url}. Ctrl-C stops it."])
        output.object({"status": "ok", "url": url, "port": port})

    try:
        serve(settings, host, port, on_ready=announce, on_alert=alert)
    except OSError as error:
        reason = str(error.strerror).partition(" (while ")[0]  # which quotes the address again
        raise UsageError(
            f"Can't listen on {host}, port {port}: {reason}. Choose another address with "
            "--host and --port."
        ) from None
    return Result(summary={"status": "stopped"})


def run_drain(
    settings: Settings, output: Output, every: str | None, *, watches: bool = False
) -> Result:
    """One drain, or drains until a signal, as a command's result."""
    from connector.logs import get_logger
    from pipelines.pull.drain import drain

    every_s = None if every is None else parse_duration_s(every)
    if every_s is not None and (output.all_accounts or every_s < 1):
        raise UsageError(
            "With --every, the command runs until it is stopped: start one process for each "
            "account (--account NAME), with an interval of at least one second."
        )
    log = get_logger("events")

    def show(report: DrainReport) -> None:
        log.info(
            "drain.turn", looked_up=report.looked_up, written=report.written,
            deleted=report.deleted, waiting=report.waiting, published=report.published,
            seconds=round(report.seconds, 1), waited_s=round(report.waited_s, 1),
        )  # fmt: skip

    report = drain(settings, every_s=every_s, watches=watches, on_turn=show)
    code = 0 if report.error is None else report.error.exit_code
    return Result(summary=report.facts(), lines=_lines(report), exit_code=code, error=report.error)


def _lines(report: DrainReport) -> list[str]:
    if report.left_to is not None:
        return [f"Left to {report.left_to}, which looks up the people whom events named."]
    people = plural(report.looked_up, "person")
    lines = [f"{people} looked up: {report.written:,} written, {report.deleted:,} flagged deleted."]
    if report.waiting:
        verb = "waits" if report.waiting == 1 else "wait"
        lines.append(
            f"{plural(report.waiting, 'person')} {verb} for a later drain, or for the next pull."
        )
    if report.why_not_covered is not None:
        lines.append(f"Pulls scan prospects as before: {report.why_not_covered}.")
    return lines


# --- subscribe, list and poll ---------------------------------------------------------------------


def subscribe(settings: Settings, url: str, events: list[str] | None, *, save: bool) -> Result:
    """Subscribe `url` to events; the secret is saved, or shown once.

    Raises:
        UsageError: a URL that can't receive events, or an API that has no such call.
    """
    from connector.logs import error_facts
    from connector.settings import check_public_url
    from connector.webhooks.inbox import EVENT_TYPES, account_of, open_inbox
    from pipelines.running.session import open_session

    try:
        check_public_url(url)
    except ValueError as error:
        raise UsageError(f"webhooks subscribe: {error}.") from None
    made: list[dict[str, Any]] = []
    failure: ConnectorError | None = None
    with (
        open_session(settings, kind="webhooks") as session,
        closing(open_inbox(settings, session.ledger)) as inbox,
    ):
        try:
            for event in events or EVENT_TYPES:
                made.append(_subscribe_to(event, url, session.client, settings))
        except ConnectorError as error:
            if not made:
                raise
            failure = error  # but the secrets so far aren't shown again
        secrets = [each.pop("secret") for each in made if "secret" in each]
        account = account_of(settings)
        known = inbox.notes(account).get("subscriptions", [])
        before = [each for each in known if (each["url"], each["event"]) not in _named(made)]
        try:
            inbox.change_notes(account, subscriptions=[*before, *made])
        except ConnectorError as error:
            failure = failure or error
    summary, lines = _subscribed(settings, made, secrets, save=save)
    if failure is not None:
        summary |= {"status": "failed", "error": error_facts(failure)}
    code = 0 if failure is None else failure.exit_code
    return Result(summary, lines, code, failure, is_answer=True)


def _subscribe_to(event: str, url: str, client: ApiClient, settings: Settings) -> dict[str, Any]:
    """What is remembered of it, and its `secret` if the API shows it."""
    try:
        facts = client.subscribe(url, event)
    except Refused as error:
        if error.status not in (404, 405):
            raise
        raise UsageError(
            f"This API has no call to subscribe ({error.status}). Make the webhook in {_WHERE}, "
            f"and put its secret into {_variable(settings)}."
        ) from None
    made = {"url": url, "event": event, "at": utc(wall_ms())}
    made |= {name: str(facts[name]) for name in ("subscriptionId", "hookId") if name in facts}
    secret = facts.get("endpointSecret")
    return made | ({"secret": secret} if isinstance(secret, str) and secret else {})


def _named(made: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(each["url"], each["event"]) for each in made}


def _subscribed(
    settings: Settings, made: list[dict[str, Any]], secrets: list[str], *, save: bool
) -> tuple[dict[str, Any], list[str]]:
    """The summary and the text; they have the secrets, unless these could be saved."""
    variable = _variable(settings)
    summary: dict[str, Any] = {"status": "ok", "subscriptions": made, "variable": variable}
    lines = [f"Subscribed {each['url']} to {each['event']}." for each in made]
    if len(secrets) < len(made):
        lines.append(
            "The API doesn't show the secret of a subscription that existed before. If you no "
            f"longer have it, remove the webhook in {_WHERE}, and subscribe again."
        )
    if secrets and save:
        try:
            path = save_secrets(settings, variable, secrets)
        except OSError as error:
            lines.append(f"The secret can't be saved: {error.strerror}.")
        else:
            summary["saved_to"] = str(path)
            lines.append(
                f"The secret is in {path}, as {variable}. Restart the receiver if it is running."
            )
            secrets = []
    if secrets:
        summary["secrets"] = secrets
        lines += [
            "Put this line into .env, or this variable into the receiver's environment, with the",
            "secrets that are there already; it isn't shown again:",
            f"  {variable}={','.join(secrets)}",
        ]
    lines.append(f"To remove a subscription: {_WHERE}. The API has no known call for it.")
    return summary, lines


def _variable(settings: Settings) -> str:
    """The variable for the secrets of the account in use."""
    if settings.account is None:
        return "HIRINGCENTER_WEBHOOK_SECRETS"
    named = settings.accounts[settings.account].webhook_secrets_env
    return named or f"HIRINGCENTER_WEBHOOK_SECRETS_{settings.account.upper()}"


def save_secrets(settings: Settings, variable: str, secrets: list[str]) -> Path:
    """Add secrets to those in the project's `.env`, which becomes private; its path."""
    from dotenv import set_key

    path = settings.project.dotenv or settings.project.folder / ".env"
    text = settings.project.variables.get(variable) or ""
    known = [each.strip() for each in text.split(",") if each.strip()]
    path.touch(mode=0o600)
    path.chmod(0o600)
    kept = [each for each in known if each not in secrets]
    set_key(path, variable, ",".join([*dict.fromkeys(secrets), *kept]), quote_mode="auto")
    path.chmod(0o600)
    return path


def list_events(settings: Settings) -> Result:
    """What was subscribed from here, and what was received lately. Sends no request."""
    from connector.webhooks.inbox import EventFacts, account_of, find_inbox
    from pipelines.destination.identity import destination_label
    from pipelines.pull.events import why_not_covered
    from pipelines.running.session import open_ledger

    account, notes, facts = account_of(settings), dict[str, Any](), EventFacts()
    with open_ledger(settings) as ledger:
        scans = {each.resource: each for each in ledger.freshness.of(destination_label(settings))}
        inbox = find_inbox(settings, ledger.database)
        if inbox is not None:
            with closing(inbox):
                notes, facts = inbox.notes(account), inbox.facts(account)
    scan = scans.get("prospects")
    why_not = why_not_covered(
        facts,
        trust_days=settings.webhooks.trust_days,
        last_full_ms=scan.last_complete_ms if scan else None,
        now_ms=wall_ms(),
    )
    summary: dict[str, Any] = {
        "status": "ok",
        "subscriptions": notes.get("subscriptions", []),
        "received": {
            name: {"deliveries": count, "last_at": utc(facts.last_ms[name])}
            for name, count in facts.deliveries.items()
        },
        "receiver_alive_at": utc(facts.alive_ms),
        "receiver_alive_since": utc(facts.alive_since_ms),
        "waiting": facts.waiting,
        "unidentified": facts.unidentified,
        "miss_rate": facts.miss_rate,
        "why_not_covered": why_not,
    }
    return Result(summary=summary, lines=_event_lines(summary), is_answer=True)


def _event_lines(facts: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Subscribed: {each['url']} to {each['event']}, at {each['at']}"
        for each in facts["subscriptions"]
    ]
    lines.append(f"Subscriptions made elsewhere can't be listed; see {_WHERE}.")
    lines += [
        f"Received: {name or 'without a type'}, {plural(each['deliveries'], 'time')}, last at "
        f"{each['last_at']}"
        for name, each in facts["received"].items()
    ]
    alive = facts["receiver_alive_at"]
    lines.append(
        "No receiver has been running."
        if alive is None
        else f"Receiver: running since {facts['receiver_alive_since']}, last seen {alive}"
    )
    lines.append(f"{plural(facts['waiting'], 'person')} still to be looked up.")
    if facts["unidentified"]:
        lines.append(f"In {plural(facts['unidentified'], 'event')} no prospect was found.")
    if facts["miss_rate"] is not None:
        lines.append(f"Changes that events missed, by the last full scan: {facts['miss_rate']:.1%}")
    why_not = facts["why_not_covered"]
    lines.append(
        "Events replace scans of prospects."
        if why_not is None
        else f"Pulls scan prospects as before: {why_not}."
    )
    return lines


def show_poll(settings: Settings) -> Result:
    """The poll feed as it is now, for one request. Only the summary has the rows."""
    from connector.webhooks.receiver import prospect_in
    from pipelines.pull.events import polled_rows
    from pipelines.running.session import open_session

    with open_session(settings, kind="webhooks") as session:
        rows = [each for each in polled_rows(session) if isinstance(each, dict)]
    lines = [f"{prospect_in(each)}  created {each.get('created_at')}" for each in rows]
    lines.append(f"{plural(len(rows), 'person')} in the poll feed, which shows new prospects only.")
    return Result(summary={"status": "ok", "prospects": rows}, lines=lines, is_answer=True)
