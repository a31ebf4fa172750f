"""People whom events name are looked up, and what they look like now lands: by pulls and drains."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from connector.budget import Lane
from connector.budget.locks import HeldLock
from connector.clock import wall_ms
from connector.errors import ApiError, BudgetError, ConnectorError, Refused, UsageError
from connector.logs import get_logger
from connector.settings import Settings
from connector.source.deletions import Found, LookUps
from connector.source.fields import since_ms
from connector.source.scan_planner import Events
from connector.source.scans import (
    Checkpoint,
    ListScan,
    ResourceFacts,
    ScanKind,
    ScanPlan,
    read_state,
)
from connector.webhooks.inbox import (
    EVENT_TYPES,
    GAP_S,
    ChangedPerson,
    EventFacts,
    Inbox,
    account_of,
    find_inbox,
)
from connector.webhooks.receiver import prospect_in
from pipelines.destination.destination import Destination
from pipelines.destination.identity import pull_lock_name
from pipelines.pull.chunks import Landing
from pipelines.running.session import Session, forget_lock_name, forgotten_of, lock_soon

PROSPECTS = "prospects"
PROBE_EVERY_S = 900.0
POLL_PATIENCE_S = 10.0  # drains ask while they hold the pull lock, and ask again soon
MISSED_MAX = 0.01  # of changes; above that, events aren't relied on
_OLDEST_MS = 3_600_000  # that a person may wait before events count as not followed
_DAY_MS = 86_400_000
_AT_ONCE = 4  # look-ups
_PORTION = 100  # people who are looked up before they land
_UNKNOWN_MAX = 3  # from so many on, in a portion with no one else, ids are misread
_FOLLOWED = "followed_ms"  # in the inbox's notes, as in the facts of the list
_LATE_MS = 60_000  # that an event may come after a person was made
_log = get_logger("events")


def drain_lock_name(settings: Settings) -> str:
    """The lock that a drain holds around that of the pull, so that a pull knows whom it meets."""
    return f"drain, {pull_lock_name(settings)}"[:256]


def pull_lock(session: Session) -> AbstractContextManager[HeldLock]:
    """Hold the lock of the one pull; a drain or a forget that holds it is waited for, up to a
    minute.

    Raises:
        AlreadyRunning: another pull holds it, or the other work doesn't end.
        Interrupted: a signal arrived while waiting.
    """
    name = pull_lock_name(session.settings)
    around = (drain_lock_name(session.settings), forget_lock_name(name))
    return lock_soon(session, session.ledger, name, around=around)


def why_not_covered(
    facts: EventFacts, *, trust_days: float, last_full_ms: int | None, now_ms: int
) -> str | None:
    """Why events don't stand for a scan of all prospects, for people; None if they do: each
    change since the last full scan began can have arrived, as far as it is known."""
    if last_full_ms is None:
        return "there was no full scan yet"
    if facts.alive_ms is None and facts.elsewhere:
        return "the settings of the receiver name another destination, dataset or duckdb_path"
    if not any(name in facts.last_ms for name in EVENT_TYPES):
        return "no event has come yet"
    since_ms, alive_ms = facts.alive_since_ms, facts.alive_ms
    if since_ms is None or alive_ms is None:
        return "no receiver has been running"
    if now_ms - alive_ms > GAP_S * 1000:
        return f"no receiver has been running for {(now_ms - alive_ms) // 1000} s"
    if since_ms > last_full_ms:
        return "the receiver was down after the last full scan began"
    for name in EVENT_TYPES:
        seen_ms = facts.last_ms.get(name)
        if seen_ms is None or now_ms - seen_ms > trust_days * _DAY_MS:
            return f"no {name} has come for {trust_days:g} days"
        if seen_ms < since_ms:
            return f"no {name} has come since the receiver was down"
    if facts.unidentified_ms is not None and facts.unidentified_ms >= last_full_ms:
        return "an event came in which no prospect was found"
    if facts.probe_missed_ms is not None and facts.probe_missed_ms >= last_full_ms:
        return "the poll feed had a new person whom no event had named"
    if facts.miss_rate is not None and facts.miss_rate > MISSED_MAX:
        return f"by the last full scan, events had missed {facts.miss_rate:.1%} of the changes"
    if facts.oldest_ms is not None and now_ms - facts.oldest_ms > _OLDEST_MS:
        return "people whom events have named wait for more than an hour"
    return None


@dataclass
class Looked:
    """What look-ups found. people: whom they were for, by id. alive: records. gone: 404.
    undecided: neither; they are tried again. asked_ms: UTC epoch ms before the first was asked for.
    at_s: monotonic seconds after the last answer."""

    people: dict[str, ChangedPerson] = field(default_factory=dict)
    alive: list[dict[str, Any]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    errors: list[ConnectorError] = field(default_factory=list)
    asked_ms: int | None = None
    at_s: float = 0.0


class Follower:
    """The inbox of one destination, for the holder of the pull lock.

    postponed: how many look-ups have decided nothing.
    """

    def __init__(self, session: Session, inbox: Inbox) -> None:
        self._session, self.inbox = session, inbox
        self._account = account_of(session.settings)
        self.postponed = 0

    def facts(self) -> EventFacts:
        return self.inbox.facts(self._account)

    def why_not_covered(self, known: ResourceFacts) -> str | None:
        """known: of the list of prospects."""
        followed_ms = self.inbox.notes(self._account).get(_FOLLOWED, 0)
        if followed_ms > max(known.followed_ms or 0, known.last_full_ms or 0):
            return "the destination is older than what events have brought, as if restored"
        return why_not_covered(
            self.facts(),
            trust_days=self._session.settings.webhooks.trust_days,
            last_full_ms=known.last_full_ms, now_ms=self._session.now_ms(),
        )  # fmt: skip

    def events(self, known: ResourceFacts) -> Events:
        """What the planner needs to know."""
        why_not, waiting = self.why_not_covered(known), self.facts().waiting
        if why_not is not None:
            _log.info("events.not_covered", why=why_not, waiting=waiting)
        return Events(why_not, waiting)

    # --- looking up -----------------------------------------------------------------------------

    def follow(
        self,
        landing: Landing,
        destination: Destination,
        run: ListScan,
        *,
        within_s: float = inf,
        most: float = inf,
    ) -> int:
        """Look up and land who waits; how many were looked up.

        landing: its list of prospects is `run`. within_s: no look-up is begun after that. most: as
        many look-ups.

        Raises:
            ApiError, BudgetError, DestinationError, Interrupted: what was found before has landed.
        """
        clock, began_ms = self._session.clock, self._session.now_ms()
        until_s, done = clock.monotonic_s() + within_s, 0
        forgotten = forgotten_of(self._session)
        while done < most and clock.monotonic_s() < until_s:
            portion = self.fitting(int(min(_PORTION, most - done)), until_s - clock.monotonic_s())
            if not portion:
                break
            people = self.inbox.waiting(self._account, portion, now_ms=began_ms)
            people = [each for each in people if each.first_ms <= began_ms]
            if not people:
                break
            if left_out := [each for each in people if forgotten.has_id(each.prospect_id)]:
                self.inbox.settle(self._account, left_out)
                _log.info("events.forgotten", people=len(left_out))
                continue
            looked = self._look(people, until_s)
            self._land(looked, landing, destination, run)
            done += len(looked.people)
            if looked.errors:
                raise looked.errors[0]
            if not looked.people:
                break
        return done

    def fitting(self, portion: int, left_s: float) -> int:
        """How many look-ups the rate budget lets through in that time: the pull lock must not be
        held while they wait for permits."""
        while portion and left_s != inf:
            done_in_s = self._session.budget.forecast(portion, Lane.PULL, in_flight=_AT_ONCE)
            if done_in_s.done_in_s <= left_s:
                break
            portion //= 2
        return portion

    def _look(self, people: Sequence[ChangedPerson], until_s: float) -> Looked:
        parts = [people[first::_AT_ONCE] for first in range(_AT_ONCE)]
        clock, client = self._session.clock, self._session.client
        looked = Looked(asked_ms=self._session.now_ms())

        def look(part: Sequence[ChangedPerson]) -> tuple[LookUps, list[dict[str, Any]]]:
            look_ups, found = LookUps(client, PROSPECTS, permit_until_s=until_s), []
            try:
                for each in part:
                    if clock.monotonic_s() >= until_s:
                        break
                    record = look_ups.look(each.prospect_id)
                    found += [] if record is None else [record]
            except TimeoutError:  # the API has asked to wait: the pull lock isn't held meanwhile
                pass
            except ConnectorError as error:
                looked.errors.append(error)
            return look_ups, found

        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="look-up") as threads:
            results = list(threads.map(look, [part for part in parts if part]))
        by_id = {each.prospect_id: each for each in people}
        for look_ups, found in results:
            looked.alive += found
            looked.gone += look_ups.ids[Found.DELETED]
            for kind in (Found.UNDECIDED, Found.UNASKED, Found.UNASKABLE):
                looked.undecided += look_ups.ids[kind]
            for ids in look_ups.ids.values():
                looked.people.update({each: by_id[each] for each in ids})
        looked.at_s = clock.monotonic_s()
        return looked

    def _land(
        self, looked: Looked, landing: Landing, destination: Destination, run: ListScan
    ) -> None:
        now_ms = self._session.now_ms()
        ids = [str(each["id"]) for each in looked.alive]
        known = destination.known(PROSPECTS, [*ids, *looked.gone])
        unlisted = set(destination.unlisted(PROSPECTS)).intersection(ids)
        before = run.counts["rows_written"]
        run.facts = replace(run.facts, followed_ms=now_ms)
        landing.land_looked_up(
            PROSPECTS, looked.alive, looked.gone, at_s=looked.at_s, asked_ms=looked.asked_ms
        )
        destination.unlist(PROSPECTS, sorted(unlisted), now_ms)
        lost = [each for each in looked.gone if each in known]
        destination.tombstone(PROSPECTS, lost, now_ms)
        run.counts["rows_deleted"] += len(lost)
        brought = run.counts["rows_written"] - before
        postponed = [looked.people[each] for each in looked.undecided]
        settled = [looked.people[each] for each in (*ids, *looked.gone) if each in looked.people]
        if brought:  # then the destination's state says so too, unless an older one is restored
            self.inbox.change_notes(self._account, **{_FOLLOWED: now_ms})
        self.inbox.settle(self._account, settled, brought=brought)
        self.inbox.postpone(self._account, postponed, now_ms=now_ms)
        self.postponed += len(postponed)
        if unknown := len(set(looked.gone) - known):
            # created and deleted since, or what looked like the id of a person is something else
            _log.info("events.unknown", people=unknown)
            if unknown >= _UNKNOWN_MAX and not looked.alive and not lost:
                self.inbox.note_unidentified(self._account, unknown, now_ms=now_ms)

    # --- full scans, and the poll feed ----------------------------------------------------------

    def end_full_scan(self, run: ListScan, found: set[str]) -> None:
        """Who was named before it began needs no look-up; and what events have missed is counted.

        found: ids that the scan has found new or changed.
        """
        facts, scanned_ms = self.facts(), run.checkpoint.started_ms
        outcome = run.outcome
        if outcome is None or outcome.unfinished:
            return
        full_ms, since_ms = run.facts.last_full_ms, facts.alive_since_ms
        is_counted = full_ms is not None and since_ms is not None and since_ms <= full_ms
        rate = None
        if is_counted and not run.resumed:
            named = self.inbox.waiting_among(self._account, sorted(found))
            changes = facts.brought + len(found)
            rate = len(found - named) / changes if changes else 0.0
            if found - named:
                _log.info("events.missed", people=len(found - named), of=changes)
        covered = self.inbox.note_full_scan(
            self._account, scanned_ms=scanned_ms, is_complete=outcome.complete, miss_rate=rate
        )
        if covered:
            _log.info("events.covered_by_scan", people=covered)

    def is_probe_due(self, facts: EventFacts) -> bool:
        """Every quarter of an hour, where events come."""
        since_ms = self._session.now_ms() - (facts.probed_ms or 0)
        return facts.last_event_ms is not None and since_ms >= PROBE_EVERY_S * 1000

    def probe(self, destination: Destination, *, within_s: float = inf) -> None:
        """Ask the poll feed for new people whom no event has named; one of the last minute may be
        late. Where there is no such feed, full scans alone find who was missed. within_s: without
        a permit until then, a later one does it."""
        now_ms, new = self._session.now_ms(), list[str]()
        try:
            people = polled_people(self._session, within_s=within_s)
        except TimeoutError:
            return
        except (ApiError, UsageError) as error:
            _log.info("events.no_probe", why=str(error))
        else:
            ids = [each for each, made_ms in people.items() if now_ms - (made_ms or 0) >= _LATE_MS]
            named = self.inbox.waiting_among(self._account, ids)
            known = destination.known(PROSPECTS, ids) | named
            new = [each for each in ids if each not in known]
        if new:
            _log.warning("events.missed_by_poll", people=len(new))
            self.inbox.note_polled(self._account, new, now_ms=now_ms)
        self.inbox.note_probe(self._account, now_ms=now_ms, has_missed=bool(new))


def polled_people(session: Session, *, within_s: float = inf) -> dict[str, int | None]:
    """Ids in the poll feed, each with its time of creation (UTC epoch ms) where it has one.

    Raises:
        UsageError: this API has no such feed.
        ApiError: it can't be asked now.
        TimeoutError: the budget has no permit for it `within_s`.
    """
    rows = polled_rows(session, within_s=within_s)
    people: dict[str, int | None] = {}
    for row in rows:
        if person := prospect_in(row):
            people[person] = _ms_of(row.get("created_at") or row.get("createdAt"))
    if len(people) < len(rows):
        _log.warning("events.poll_unreadable", rows=len(rows) - len(people))
    forgotten = forgotten_of(session)
    return {id_: at_ms for id_, at_ms in people.items() if not forgotten.has_id(id_)}


def polled_rows(session: Session, *, within_s: float = inf) -> list[Any]:
    """The poll feed as it is; see `polled_people`."""
    try:
        until_s = session.clock.monotonic_s() + within_s
        return session.client.polled(patience_s=POLL_PATIENCE_S, permit_until_s=until_s)
    except Refused as error:
        if error.status not in (404, 405):
            raise
        raise UsageError(
            f"This API has no feed of new prospects ({error.status}). Receive webhooks instead, or "
            "pull more often."
        ) from None


def _ms_of(value: Any) -> int | None:
    with suppress(ValueError):
        return since_ms(str(value))
    return None


def follower_of(session: Session) -> Follower | None:
    """None where nothing was ever received or polled, or the inbox can't be used: a pull does
    without it, and scans as if there were no events."""
    try:
        inbox = find_inbox(session.settings, session.ledger)
    except BudgetError as error:
        _log.warning("events.no_inbox", why=str(error))
        return None
    return None if inbox is None else Follower(session, inbox)


def events_scan(destination: Destination, reason: str) -> ListScan:
    """A scan of prospects by events alone, which leaves their state as it is."""
    facts, left = read_state(PROSPECTS, destination.loader.state_of(PROSPECTS))
    plan = ScanPlan(PROSPECTS, ScanKind.EVENTS, reason)
    return ListScan(PROSPECTS, facts, Checkpoint(plan, wall_ms()), left=left)
