"""Drains: between pulls, people whom events name are looked up and land, many times a day.

A drain holds the pull lock for a minute at most, and leaves its work to a pull that holds it. It
moves no watermark. All drains of a day are one run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any

from connector.budget import locks
from connector.errors import AlreadyRunning, BudgetError, ConnectorError, Interrupted, status_of
from connector.logs import error_facts, get_logger
from connector.settings import Settings
from connector.webhooks.inbox import Inbox, account_of, open_inbox
from pipelines.destination.destination import Destination
from pipelines.destination.identity import destination_label, pull_lock_name
from pipelines.pull.chunks import Landing
from pipelines.pull.events import (
    POLL_PATIENCE_S,
    PROSPECTS,
    Follower,
    drain_lock_name,
    events_scan,
    polled_people,
)
from pipelines.pull.run_tables import RunRecorder, refuse_if_moved
from pipelines.running.session import Session, forgotten_of, open_session

TURN_S = 40.0  # of look-ups, in one go …
_SHORT_TURN_S = 10.0  # … and while what has landed waits to be published
WATCH_FLUSH_S = 5.0
_FEW = 10  # look-ups that are never left to a full scan
_POLLED_MAX = 5000  # ids of the last poll
_log = get_logger("events")


@dataclass
class DrainReport:
    """looked_up, written, deleted: people. waiting: whom a later drain or pull looks up. left_to:
    the pull that does it instead. seconds: of the turn, waited_s of which for the budget."""

    run_id: str = ""
    looked_up: int = 0
    written: int = 0
    deleted: int = 0
    waiting: int = 0
    requests: int = 0
    published: bool = False
    left_to: str | None = None
    why_not_covered: str | None = None
    error: ConnectorError | None = None
    seconds: float = 0.0
    waited_s: float = 0.0

    def facts(self) -> dict[str, Any]:
        names = ("run_id", "looked_up", "written", "deleted", "waiting", "requests", "published")
        facts = {"status": status_of(self.error), **{name: getattr(self, name) for name in names}}
        for name in ("left_to", "why_not_covered"):
            if getattr(self, name) is not None:
                facts[name] = getattr(self, name)
        return facts | ({"error": error_facts(self.error)} if self.error else {})


def drain(
    settings: Settings,
    *,
    every_s: float | None = None,
    watches: bool = False,
    on_turn: Callable[[DrainReport], None] = lambda _: None,
) -> DrainReport:
    """Look up whom events have named, once or every `every_s` seconds until a signal.

    watches: ask the poll feed for new people in each turn. on_turn: called after each turn that did
    something, or waited for the budget.

    Raises:
        MissingKey, BudgetError: no request was sent.
    """
    with open_session(settings, kind="drain") as session, ExitStack() as stack:
        follower = Follower(session, open_inbox(settings, session.ledger))
        stack.callback(lambda: follower.inbox.close())
        turns = Drains(session, follower, watches=watches)
        if every_s is None:
            return turns.take(is_last=True)
        return turns.take_until_stopped(every_s, on_turn)


@dataclass
class _Spent:
    """What `watch` has polled and looked up: at most so many requests of the longest window, whose
    length is in seconds. by_minute: those of the last window, so that a restart doesn't begin from
    nothing."""

    most: int
    length_s: float
    by_minute: deque[tuple[int, int]]

    def left(self, now_s: float) -> int:
        while self.by_minute and (self.by_minute[0][0] + 1) * 60 <= now_s - self.length_s:
            self.by_minute.popleft()
        return max(0, self.most - sum(count for _, count in self.by_minute))

    def add(self, count: int, now_s: float) -> None:
        minute = int(now_s // 60)
        if self.by_minute and self.by_minute[-1][0] == minute:
            count += self.by_minute.pop()[1]
        self.by_minute.append((minute, count))


class Drains:
    """The turns of one process."""

    def __init__(self, session: Session, follower: Follower, *, watches: bool = False) -> None:
        self._session, self._follower, settings = session, follower, session.settings
        self._flush_s = WATCH_FLUSH_S if watches else settings.webhooks.flush_s
        self._account, self._label = account_of(settings), destination_label(settings)
        self._publish_at_s = -inf
        self._is_behind = True  # as far as it is known: an earlier drain may have been killed
        self._polled: list[str] = []
        self._total = DrainReport()
        self._spent: _Spent | None = None
        if watches:
            window = max(settings.rate_limits, key=lambda limit: limit.length_s)
            kept = deque((int(m), int(n)) for m, n in self._notes().get("spent", []))
            self._spent = _Spent(int(settings.watch.share * window.limit), window.length_s, kept)

    @property
    def _inbox(self) -> Inbox:
        return self._follower.inbox

    def _notes(self) -> dict[str, Any]:
        return self._inbox.notes(self._account)

    def take_until_stopped(
        self, every_s: float, on_turn: Callable[[DrainReport], None]
    ) -> DrainReport:
        """A turn every `every_s` seconds; whatever fails is tried again in the next one."""
        clock, stop = self._session.clock, self._session.stop
        while True:
            began_s = clock.monotonic_s()
            report = self.take()
            if report.error is not None and not isinstance(report.error, Interrupted):
                _log.warning("drain.failed", why=str(report.error))
                if report.error.exit_code == 2:  # a refused key doesn't get better by itself
                    return report
            if report.looked_up or report.published or report.error or report.waited_s >= 1:
                on_turn(report)
            if clock.sleep(self._wait_s(report, began_s, every_s), stop):
                last = self.take(is_last=True, looks=False)
                self._total.published |= last.published
                self._total.error = Interrupted(stop.signal_number)
                return self._total

    def _wait_s(self, report: DrainReport, began_s: float, every_s: float) -> float:
        """Until the next turn, or until what has landed may be published."""
        now_s = self._session.clock.monotonic_s()
        next_s = began_s + every_s
        if self._is_behind and report.left_to is None and report.error is None:
            next_s = min(next_s, self._publish_at_s)
        return max(0.05, next_s - now_s)

    def take(self, *, is_last: bool = False, looks: bool = True) -> DrainReport:
        """One turn. is_last: publish whatever has landed. looks: look people up."""
        session, report = self._session, DrainReport(run_id=self._session.run_id)
        began_s, waited_s = session.clock.monotonic_s(), session.budget.waited_s
        before = self._requests_before = session.client.requests
        try:
            if not self._inbox.is_in_place():  # the receiver has begun a new one
                self._inbox.close()
                self._follower.inbox = open_inbox(session.settings, session.ledger)
            self._turn(report, began_s, is_last=is_last, looks=looks)
        except AlreadyRunning as error:
            report.left_to = error.holder
            _log.info("drain.left_to", holder=error.holder)
        except ConnectorError as error:
            report.error = error
        report.requests = session.client.requests - before
        report.seconds = session.clock.monotonic_s() - began_s
        report.waited_s = session.budget.waited_s - waited_s
        try:
            self._note(report)
        except BudgetError as error:
            report.error = report.error or error
        for name in ("looked_up", "written", "deleted", "requests"):
            setattr(self._total, name, getattr(self._total, name) + getattr(report, name))
        self._total.run_id, self._total.waiting = report.run_id, report.waiting
        self._total.published |= report.published
        return report

    def _note(self, report: DrainReport) -> None:
        """In the ledger, which may be away."""
        if self._spent is not None and report.requests:
            self._spent.add(report.requests, self._session.clock.now_s())
            self._inbox.change_notes(self._account, spent=[*self._spent.by_minute])
        report.waiting = self._follower.facts().waiting
        if report.error is not None:
            self._add_to_day({}, report.error)

    def _turn(self, report: DrainReport, began_s: float, *, is_last: bool, looks: bool) -> None:
        session, clock = self._session, self._session.clock
        most = inf if self._spent is None else self._spent.left(clock.now_s())
        has_new = False
        if self._spent is not None and looks and most >= 1:
            has_new, most = self._poll(), most - 1
        now_ms = session.now_ms()
        waits = looks and bool(self._inbox.waiting(self._account, 1, now_ms=now_ms)) and most >= 1
        facts = self._follower.facts()
        is_probe_due = (
            looks and self._spent is None and self._follower.is_probe_due(facts)
            and self._follower.fitting(1, POLL_PATIENCE_S) == 1
        )  # fmt: skip
        is_flush_due = self._is_behind and (is_last or clock.monotonic_s() >= self._publish_at_s)
        if not (waits or has_new or is_probe_due or is_flush_due):
            return
        with self._lock(), Destination(session.settings, stop=session.stop) as destination:
            self._is_behind = not destination.is_published
            run = events_scan(destination, "events")
            if run.facts.last_full_ms is None and run.left is None:
                report.why_not_covered = (
                    "prospects haven't been pulled yet; the first pull finds them all"
                )
                self._is_behind = False  # as far as drains are concerned
                return
            refuse_if_moved(destination, session)
            try:
                if has_new:
                    self._note_new(destination)
                landing = Landing(destination, {PROSPECTS: run}, session.settings.pull)
                landing.forgotten = forgotten_of(session)
                landing.create_tables()
                if self._is_scan_cheaper(run.facts.pages, facts.waiting):
                    _log.info("drain.left_to_full_scan", waiting=facts.waiting)
                elif (waits or has_new) and looks:
                    within_s = _SHORT_TURN_S if self._is_behind else TURN_S
                    report.looked_up = self._follower.follow(
                        landing, destination, run, within_s=within_s, most=most
                    )
                if is_probe_due:
                    self._follower.probe(destination, within_s=POLL_PATIENCE_S)
            finally:
                report.written = run.counts["rows_written"]
                report.deleted = run.counts["rows_deleted"]
                report.why_not_covered = self._follower.why_not_covered(run.facts)
                self._is_behind |= bool(report.written or report.deleted)
                if run.counts["rows_read"] or report.deleted:
                    self._add_to_day(run.counts)
                self._publish_if_due(destination, report, began_s, is_last=is_last)

    def _is_scan_cheaper(self, pages: int | None, waiting: int) -> bool:
        """Then the next pull makes a full scan instead."""
        return pages is not None and waiting > max(pages, 1) and waiting > _FEW

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """The lock of pulls, within one that shows a pull whom it meets.

        Raises:
            AlreadyRunning: a pull is at work, or another drain.
        """
        session = self._session
        names = (drain_lock_name(session.settings), pull_lock_name(session.settings))
        with ExitStack() as stack:
            for name in names:
                stack.enter_context(locks.take_lock(session.ledger, name, run_id=session.run_id))
            yield

    # --- the poll feed ----------------------------------------------------------------------------

    def _poll(self) -> bool:
        """Whether the feed has a person whom the last one didn't have."""
        self._polled = [*polled_people(self._session)][:_POLLED_MAX]
        before = self._notes().get("polled", [])
        return not set(self._polled) <= set(before)

    def _note_new(self, destination: Destination) -> None:
        known = destination.known(PROSPECTS, self._polled)
        new = [each for each in self._polled if each not in known]
        now_ms = self._session.now_ms()
        self._inbox.note_polled(self._account, new, now_ms=now_ms)
        self._inbox.change_notes(self._account, polled=self._polled)

    # --- the end of a turn ------------------------------------------------------------------------

    def _publish_if_due(
        self, destination: Destination, report: DrainReport, began_s: float, *, is_last: bool
    ) -> None:
        clock = self._session.clock
        if not (self._is_behind and (is_last or clock.monotonic_s() >= self._publish_at_s)):
            return
        recorder = RunRecorder(self._session, destination)
        recorder.note_events(PROSPECTS, self._follower.facts())
        report.published = recorder.land_and_publish()
        self._is_behind = False
        # people named during a turn wait for the next: counted from its end, that would take one
        # turn more; but a large copy isn't to be written all the time
        rests_until_s = clock.monotonic_s() + self._flush_s / 2
        self._publish_at_s = max(max(began_s, self._publish_at_s) + self._flush_s, rests_until_s)

    def _add_to_day(self, counts: Mapping[str, int], error: ConnectorError | None = None) -> None:
        """counts: of rows; of an error, none."""
        session = self._session
        requests = session.client.requests - self._requests_before
        self._requests_before += requests
        facts = {"scan": "events", "reason": "people whom events have named", "complete": None}
        none = {"rows_read": 0, "rows_written": 0, "rows_deleted": 0}
        summary: dict[str, Any] = {
            "status": status_of(error), "requests": requests,
            "resources": {PROSPECTS: {**facts, **none, **counts}},
        }  # fmt: skip
        if error is not None:
            summary["error"] = error_facts(error)
        session.runs.add_to_day(session.run_id, "drain", self._label, summary)
