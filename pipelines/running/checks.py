"""`hiringcenter check`: one line per requirement, which says ok or what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

from connector.budget import Lane, locks
from connector.errors import AlreadyRunning, ConnectorError
from connector.logs import redact
from connector.settings import Settings
from pipelines.destination.destination import Destination
from pipelines.destination.identity import destination_label, pull_lock_name
from pipelines.destination.postgres import AnswerTimeouts
from pipelines.running.session import Session, note_account, open_session, outbox_of

SKEW_MAX_S = 30.0
PATIENCE_S = 8.0
"""For the one request: a person waits at the terminal."""
ANSWER_TIMEOUTS = AnswerTimeouts(connect_s=3.0, statement_s=3.0, max_s=PATIENCE_S)


@dataclass(frozen=True)
class Check:
    """The result of one check. detail: what was found and, if it isn't ok, what to do.

    exit_code: the command's, if this check fails. facts: the same for machines, as numbers and
    lists.
    """

    name: str
    ok: bool
    detail: str
    exit_code: int = 1
    facts: Mapping[str, Any] = field(default_factory=dict)


def run_checks(settings: Settings) -> list[Check]:
    """Run every check, in the order in which people fix things. One request is sent, and retried
    for up to `PATIENCE_S`.

    Raises:
        MissingKey, BudgetError: nothing can be checked.
    """
    checks = {
        "key": _key, "destination": _destination, "budget": _budget, "outbox": _outbox,
        "clock": _clock,
    }  # fmt: skip
    with open_session(settings, kind="check", patience_s=PATIENCE_S) as session:
        return [_guarded(name, check, session) for name, check in checks.items()]


def _guarded(name: str, check: Callable[[Session], Check], session: Session) -> Check:
    try:
        return check(session)
    except ConnectorError as error:
        return Check(name, False, redact(str(error)), error.exit_code)


def _key(session: Session) -> Check:
    wait_s = session.budget.state().next_in_s[Lane.PULL]
    if wait_s > PATIENCE_S / 2:
        detail = f"not checked: the next request may be sent in {wait_s:.0f} s. Check again then"
        return Check("key", False, detail)
    account = session.client.account()
    note_account(session.settings, session.ledger, account)
    facts = {name: account.get(name) for name in ("accountId", "active", "permissions")}
    if account.get("active") is False:
        advice = "Activate it in HiringCenter under Settings -> API / Webhooks."
        return Check("key", False, f"the key is known but not active. {advice}", 2, facts)
    permissions = account.get("permissions")
    may = "its permissions aren't listed"
    if isinstance(permissions, list) and permissions:
        may = "may " + ", ".join(map(str, permissions))
    account_id = facts["accountId"]
    whose = "" if account_id is None else f", account {account_id}"
    return Check("key", True, f"valid{whose}; {may}", facts=facts)


def _destination(session: Session) -> Check:
    settings = session.settings
    with ExitStack() as stack:
        try:
            lock = locks.take_lock(session.ledger, pull_lock_name(settings), run_id=session.run_id)
            stack.enter_context(lock)
        except AlreadyRunning as error:
            return Check("destination", True, f"in use by a pull ({error.holder})")
        destination = stack.enter_context(
            Destination(settings, stop=session.stop, timeouts=ANSWER_TIMEOUTS)
        )
        name = destination.try_writing()
        facts = {"destination": destination_label(settings)}
        without = destination.history.why_not_kept
        detail = f"{name} is writable" + (f"; {without}" if without else "")
        return Check("destination", True, detail, facts=facts)


def _budget(session: Session) -> Check:
    state = session.budget.state()
    windows = ", ".join(
        f"{window.free} of {window.limit} free in {window.length_s:g} s" for window in state.windows
    )
    facts = [
        {"limit": window.limit, "length_s": window.length_s, "free": window.free}
        for window in state.windows
    ]
    return Check("budget", True, windows, facts={"windows": facts})


def _outbox(session: Session) -> Check:
    state = session.settings.state_path
    with closing(outbox_of(session)):
        detail = f"belongs to this ledger; the state is in {state}"
        return Check("outbox", True, detail, facts={"state_dir": str(state)})


def _clock(session: Session) -> Check:
    skew_s = session.client.server_clock_skew_s
    if skew_s is None:
        what = "sent no time" if session.client.latency_s else "didn't answer"
        detail = f"unknown, since the server {what}; make sure NTP is on (`timedatectl`)"
        return Check("clock", False, detail)
    facts = {"skew_s": round(-skew_s, 3)}
    if abs(skew_s) > SKEW_MAX_S:
        detail = f"this clock is {-skew_s:+.0f} s off the server's; turn on NTP"
        return Check("clock", False, detail, facts=facts)
    return Check("clock", True, f"within {abs(skew_s):.0f} s of the server's", facts=facts)
