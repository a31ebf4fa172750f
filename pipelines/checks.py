"""`hiringcenter check`: one line per thing that must be right, each ok or with what to do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from connector.budget import locks
from connector.errors import AlreadyRunning, ConnectorError, Unauthorized
from connector.logs import redact
from connector.settings import Settings
from pipelines.destination.destination import Destination
from pipelines.places import pull_lock_name
from pipelines.push.outbox import note_account
from pipelines.session import Session, open_session

SKEW_MAX_S = 30.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. detail: what was found, and where it isn't ok, what to do."""

    name: str
    ok: bool
    detail: str


def run_checks(settings: Settings) -> list[Check]:
    """Every check, in the order people fix things. One request is sent.

    Raises:
        MissingKey, BudgetError: there is nothing to check with.
    """
    with open_session(settings, kind="check") as session:
        account = _guarded("key", lambda: _key(session))
        return [
            account,
            _guarded("destination", lambda: _destination(session)),
            _guarded("budget", lambda: _budget(session)),
            _guarded("clock", lambda: _clock(session)),
        ]


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except ConnectorError as error:
        return Check(name, False, redact(str(error)))


def _key(session: Session) -> Check:
    try:
        account = session.client.account()
    except Unauthorized as error:
        return Check("key", False, str(error))
    note_account(session.settings, session.ledger, account)
    if account.get("active") is False:
        advice = "Activate it in HiringCenter under Settings -> API / Webhooks."
        return Check("key", False, f"the key is known but not active. {advice}")
    return Check("key", True, f"valid, account {account.get('accountId')}; {_may(account)}")


def _may(account: dict[str, object]) -> str:
    permissions = account.get("permissions")
    if isinstance(permissions, list) and permissions:
        return "may " + ", ".join(map(str, permissions))
    return "its permissions aren't told"


def _destination(session: Session) -> Check:
    settings = session.settings
    with ExitStack() as stack:
        try:
            lock = locks.hold(session.ledger, pull_lock_name(settings), run_id=session.run_id)
            stack.enter_context(lock)
        except AlreadyRunning as error:
            return Check("destination", True, f"in use by a pull ({error.holder})")
        destination = stack.enter_context(Destination(settings))
        return Check("destination", True, f"{destination.try_writing()} is writable")


def _budget(session: Session) -> Check:
    state = session.budget.state()
    windows = ", ".join(
        f"{window.free} of {window.limit} free in {window.length_s:g} s" for window in state.windows
    )
    return Check("budget", True, windows)


def _clock(session: Session) -> Check:
    skew_s = session.client.server_clock_skew_s
    if skew_s is None:
        return Check("clock", True, "the server doesn't say what time it is")
    if abs(skew_s) > SKEW_MAX_S:
        return Check(
            "clock", False, f"this clock is {-skew_s:+.0f} s off the server's; turn on NTP"
        )
    return Check("clock", True, f"within {abs(skew_s):.0f} s of the server's")
