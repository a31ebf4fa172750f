"""Sending the plan: one thread keeps the outbox, many deliver writes to the API.

Each turn is one transaction: it records what has arrived and marks what goes out next, so that a
commit (which waits for the disk) serves many writes. A planned row is checked once more before it
goes out, since writes accepted meanwhile may have made it unnecessary.
"""

from __future__ import annotations

import math
import queue
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import orjson
import sqlalchemy as sa

from connector.api.client import ApiClient
from connector.budget.locks import HeldLock
from connector.clock import SIGNALS_S
from connector.errors import BudgetError, Interrupted
from connector.logs import get_logger
from connector.settings.tree import MOST_IN_FLIGHT
from connector.upsert.activities import BEHIND
from connector.upsert.delivery import Delivery, Finding, KeyMemory, server_ms
from connector.upsert.looking import Looking, PeopleScans, ProspectScan, ScannedPeople, SparedLooks
from connector.upsert.outbox.entries import Entries, unpacked
from connector.upsert.outbox.evidence import Evidence, fields_of_item
from connector.upsert.outbox.exported_rows import as_exported
from connector.upsert.outbox.matching import first_name, stored_first_name
from connector.upsert.outbox.merge import Person, body_of_creation, lacks_names
from connector.upsert.outbox.outbox import PROSPECTS, Outbox, Verdict, Write, WriteState, time_ms
from connector.upsert.outbox.person_plan import PushOptions
from connector.upsert.outbox.planner import EXISTS, decide, reject_of
from connector.upsert.outbox.receipts import Receipt, Receipts, ResultStore, RowResult, Status
from connector.upsert.row_in_flight import APPEARED, Next, RowInFlight, RowQueue
from connector.upsert.rows.row_checks import Reject
from connector.upsert.settling import Settler
from connector.upsert.undoing import BeforeImages

_log = get_logger("push")
LEAST_IN_FLIGHT = 4
BURST_SHARE = 0.05
"""When a window opens, all of its slots should be used within this share of its length: any delay
of the last burst delays the whole push."""

_MOST_PER_TURN = 500
_GRACE_S = 2.0  # after a fatal error: for answers that have almost arrived
_DAY_MS = 86_400_000
_LEARNT_DAYS = 30  # evidence of the API's memory may be outdated after this long

_DROPPED = (
    "HiringCenter kept neither email nor phone of this row when prospect {prospect_id} was "
    "created, and finds no one by them: the row would create that person again. Correct the "
    "contact, or change prospect {prospect_id} in HiringCenter; --force creates them again"
)
_UNBOOKED = "in flight when the ledger failed: the next push finds out what became of it"
_Arrival = tuple[RowInFlight, Finding | BaseException]
_AnyArrival = tuple[RowInFlight | None, Finding | ScannedPeople | BaseException]
_More = Callable[[sa.Connection, int], list[RowInFlight]]  # up to so many more that go out


def in_flight_for(latency_s: float | None, rate_per_s: float, most: int = MOST_IN_FLIGHT) -> int:
    """How many concurrent requests use a window's limit within BURST_SHARE of its length.

    rate_per_s: the window's limit over its length. latency_s: of one request; None: not known yet.
    """
    if latency_s is None:
        return min(most, LEAST_IN_FLIGHT)
    return min(most, max(LEAST_IN_FLIGHT, math.ceil(rate_per_s * latency_s / BURST_SHARE)))


class Sender:
    """Sends the plan of one run.

    began_ms: when the run began to plan. width: how many requests may be in flight now. on_reject:
    called with each row that is rejected or fails. on_result: called with each row's outcome.
    on_progress: called with the number of rows of this run that have an outcome, all in `outcomes`.
    recovered: writes of earlier runs that were settled. unbooked: rows in flight when the ledger
    failed. kept: rows with fields that were kept as HiringCenter has them. images: where to keep
    what people look like before they are changed; None: nowhere. scan: of all prospects, where more
    people wait to be looked up than it has pages. Callbacks run between transactions.
    """

    def __init__(
        self,
        outbox: Outbox,
        options: PushOptions,
        api: ApiClient,
        held: HeldLock,
        *,
        keys: KeyMemory,
        began_ms: int,
        width: Callable[[], int],
        on_reject: Callable[[Reject], None],
        on_result: Callable[[RowResult], None] = lambda _: None,
        on_progress: Callable[[int], None] = lambda _: None,
        images: BeforeImages | None = None,
        scan: ProspectScan | None = None,
    ) -> None:
        options = replace(options, looks_first=options.looks_first and not options.force)
        self._outbox, self._options = outbox, options
        self._results = ResultStore(outbox.database, outbox.scope, options.destination)
        self._api, self._held, self._keys, self._clock = api, held, keys, outbox.clock
        self._began_ms, self._width = began_ms, width
        self._on_reject, self._on_result, self._on_progress = on_reject, on_result, on_progress
        self.outcomes: Counter[Status] = Counter()
        self.recovered = self.unbooked = self.kept = 0
        self._receipts = Receipts(outbox)
        self._images = images
        self._delivery = Delivery(api, keys=keys, clock=outbox.clock)
        self._scans: PeopleScans | None = None
        if scan is not None and options.rechecks:
            self._scans = PeopleScans(outbox, options, scan)
        self._looking = Looking(api, options.rules, outbox.hasher.cell, options.rechecks)
        self._settler = Settler(outbox, self._receipts, options, images, self._looking, api)
        self._spared = SparedLooks(
            options, self._looking, self._receipts, self._scans, outbox.clock
        )
        self._entries = Entries(outbox.scope, outbox.hasher)
        self._rows = RowQueue(outbox, options.run_id)
        self._open: list[Write] = []
        self._in_flight: set[RowInFlight] = set()
        self._arrivals: queue.SimpleQueue[_AnyArrival] = queue.SimpleQueue()
        self._finished: list[RowInFlight] = []
        self._deferred: list[RowInFlight] = []
        self._ending: BaseException | None = None

    def recover(self) -> None:
        """Settle the open writes of earlier runs, before a plan that builds on them; see `send`.

        A write that still gets no answer stays open, and delays only the rows of its person.
        """
        now_ms = self._clock.now_ms()
        self._keys.learnt = self._outbox.learnt_memory(now_ms - _LEARNT_DAYS * _DAY_MS)
        self._open = self._outbox.open_sends()
        self._run(self._resume, lambda: bool(self._open))
        self._settler.recovering = False

    def send(self) -> None:
        """Settle what earlier runs left open, then send every planned row, in file order per
        person.

        Raises:
            Interrupted: a signal asked to stop; what was in flight has its answer or stays open.
            ApiError: the key was refused, or no request is answered any more.
            BudgetError: the ledger can't be used.
        """
        if self._settler.recovering:
            self.recover()
        self._run(self._claim_some, lambda: not self._rows.empty)
        if self._settler.unreachable is not None and self.outcomes[Status.FAILED]:
            raise self._settler.unreachable
        with self._outbox.database.write() as connection:
            self._entries.end_push(connection, self._options.source, self._clock.now_ms())

    def _run(self, more: _More, is_left: Callable[[], bool]) -> None:
        # at the end no thread is joined: after a fatal error some may still wait for a permit, and
        # end when the budget is closed
        pool = ThreadPoolExecutor(MOST_IN_FLIGHT, thread_name_prefix="push")
        try:
            arrived: list[_Arrival] = []
            while True:
                may_scan = not self._settler.recovering and self._ending is None
                if self._scans is not None and may_scan and self._scans.begin():
                    pool.submit(self._scan, self._scans)
                for row in self._turn(arrived, more):
                    self._in_flight.add(row)
                    pool.submit(self._deliver, row)
                if not self._is_busy and (self._ending is not None or not is_left()):
                    break
                came = self._wait()
                if came is None:
                    break
                arrived = came
        except BudgetError:  # no answer of those in flight is booked: the next push settles them
            unbooked = [row for row in self._in_flight if row.own and not row.looks]
            self.unbooked = len(unbooked)
            self.outcomes[Status.FAILED] += self.unbooked
            for row in unbooked:
                self._on_result(RowResult(row.write.row_number, Status.FAILED, None, _UNBOOKED))
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        if self._ending is not None:
            raise self._ending

    def _deliver(self, row: RowInFlight) -> None:
        """Runs in a pool thread; the thread that keeps the outbox decides what follows."""
        arrived: Finding | BaseException
        try:
            if row.looks and row.memory is not None and row.is_merged:
                arrived = self._looking.look(row.write, row.memory, row.guard)
            elif row.looks and row.is_activity and row.write.prospect_id is None:
                arrived = self._delivery.find_person(row.write)
            elif row.looks:
                arrived = self._delivery.look_up(row.write)
            else:
                arrived = self._delivery.send(
                    row.write,
                    resumed=row.resumed,
                    accepted_updated_at_ms=row.accepted_updated_at_ms,
                )
                if arrived.verdict is Verdict.MET and row.memory and row.guard is None:
                    arrived = self._looking.meet(arrived, row.memory)
        except BaseException as error:  # noqa: BLE001 - see above
            arrived = error
        self._arrivals.put((row, arrived))

    def _scan(self, scans: PeopleScans) -> None:
        """Runs in a pool thread."""
        try:
            found: ScannedPeople | BaseException = scans.run(lambda: self._ending is not None)
        except BaseException as error:  # noqa: BLE001 - the thread that keeps the outbox decides
            found = error
        self._arrivals.put((None, found))

    @property
    def _is_busy(self) -> bool:
        return bool(self._in_flight) or (self._scans is not None and self._scans.is_running)

    def _wait(self) -> list[_Arrival] | None:
        """Everything that has arrived, perhaps only a scan, which is no row's; None if the run ends
        and time is up."""
        arrived: list[_AnyArrival] = []
        if self._is_busy:
            hurried = self._ending is not None and not isinstance(self._ending, Interrupted)
            while not arrived:
                try:
                    arrived.append(self._arrivals.get(timeout=_GRACE_S if hurried else SIGNALS_S))
                except queue.Empty:
                    if hurried:
                        return None
        while not self._arrivals.empty():
            arrived.append(self._arrivals.get())
        rows: list[_Arrival] = []
        for row, found in arrived:
            if row is None or isinstance(found, ScannedPeople):
                assert self._scans is not None
                self._scans.end(found)
            else:
                rows.append((row, found))
        return rows

    def _turn(self, arrived: Sequence[_Arrival], more: _More) -> list[RowInFlight]:
        """One transaction: record what has arrived; returns the rows that go out next."""
        with self._outbox.database.write() as connection:
            self._held.check(connection)
            going = [row for row, came in arrived if self._settle_arrival(connection, row, came)]
            deferred, self._deferred = self._deferred, []
            going += [row for row in deferred if self._claim_activity(connection, row)]
            free = self._width() - (len(self._in_flight) - len(arrived)) - len(going)
            if self._ending is None and free > 0:
                going += more(connection, free)
            finished = self._store_results(connection)
        self._in_flight -= {row for row, _ in arrived}
        self._report(finished)
        return going

    def _settle_arrival(
        self, connection: sa.Connection, row: RowInFlight, arrived: Finding | BaseException
    ) -> bool:
        """Settle the result of one write; returns whether the row's next request follows now."""
        if isinstance(arrived, Finding) and arrived.verdict is Verdict.FOUND:
            self._settler.activities.note_person(row, str(arrived.prospect_id))
            return self._claim_activity(connection, row)
        if isinstance(arrived, Finding) and self._keys.learn(arrived.key_age_s, arrived.remembered):
            self._outbox.note_memory(connection, self._keys.learnt)
        follows = self._settler.settle(connection, row, arrived)
        if follows is Next.SETTLED:
            self._settler.activities.release(row.write)
            self._note_shown(row, arrived)
            return self._claim_activity(connection, row)
        is_silent = self._ending is None or isinstance(self._ending, Interrupted)
        if follows is Next.STOP and isinstance(arrived, BaseException) and is_silent:
            self._ending = arrived  # an error says more than the signal that ended the run
        if self._ending is not None:
            return False
        self._mark_sending(connection, row, follows)
        return True

    def _note_shown(self, row: RowInFlight, arrived: Finding | BaseException) -> None:
        """The person as they are now, for the next row that is about them."""
        if row.write.kind != PROSPECTS:  # it changes nothing of the person
            return
        row.shown = None
        if not isinstance(arrived, Finding) or not arrived.is_current:
            return
        item = arrived.item or {}
        if row.prospect_id is None or str(item.get("id")) != row.prospect_id:
            return
        row.shown = Person(
            row.prospect_id,
            fields_of_item(item),
            read_ms=self._clock.now_ms(),
            updated_at_ms=time_ms(item, "updatedAt"),
        )

    def _resume(self, connection: sa.Connection, free: int) -> list[RowInFlight]:
        """Writes whose answer is missing since an earlier run go out again."""
        writes, self._open = self._open[:free], self._open[free:]
        ids = {write.prospect_id for write in writes if write.prospect_id is not None}
        receipts = self._receipts.of(connection, ids)
        rows = [RowInFlight.of([write], own=False) for write in writes]
        for row in rows:
            receipt = receipts.get(row.waiting.popleft().prospect_id or "")
            row.accepted_updated_at_ms = receipt.updated_at_ms if receipt else None
            row.resumed, row.began_s = True, self._clock.monotonic_s()
            row.tried_s = row.began_s
        return rows

    def _claim_some(self, connection: sa.Connection, free: int) -> list[RowInFlight]:
        """Up to `free` rows that need a request; those that turn out to need none are finished."""
        going: list[RowInFlight] = []
        passed = 0
        if self._scans and self._scans.is_running:
            return going  # what it shows may spare their look
        while len(going) < free and passed < _MOST_PER_TURN:
            rows = self._rows.take(connection, free - len(going))
            if not rows:
                break
            names = {alias for row in rows for alias in row.write.aliases}
            found = self._receipts.find(connection, names)
            self._add_memories(connection, rows, found)
            going += [row for row in rows if self._claim_row(connection, row, found)]
            passed += len(rows)
        return going

    def _add_memories(
        self, connection: sa.Connection, rows: Sequence[RowInFlight], found: Mapping[int, Receipt]
    ) -> None:
        """What is settled for rows that are merged, by now."""
        merged = [
            row for row in rows if row.write.kind == PROSPECTS and row.write.row_alias is None
        ]
        if not merged:
            return
        writes = [row.write for row in merged]
        entries = self._entries.find_for(connection, writes[0].source, writes)
        for row, write in zip(merged, writes, strict=True):
            known = [found[each] for each in write.aliases if each in found]
            is_named = write.exported is not None
            id_ = known[0].prospect_id if known and not is_named else write.prospect_id
            memory = self._entries.memory(write, orjson.loads(write.body), id_, entries)
            row.memory = as_exported(self._entries, write, memory)
            row.siblings = unpacked(write.settles)[0] if write.settles else None

    def _claim_row(
        self, connection: sa.Connection, row: RowInFlight, found: Mapping[int, Receipt]
    ) -> bool:
        """Whether a planned row needs a request; else it has its outcome. found: where aliases
        lead."""
        write = row.write
        if not self._settler.is_settled(write):  # nothing of the row may be sent
            row.status = Status.FAILED
            row.failures.append(BEHIND)
        elif write.kind == PROSPECTS:
            uncertain, disputed = self._settler.uncertain, self._settler.disputed
            facts = row.facts = Evidence.of(write, found, uncertain, disputed)
            facts.memory = row.memory
            if write.exported is not None and write.prospect_id is not None:
                facts.name(write.prospect_id, None)
            outcome, id_, reason = decide(facts, self._options)
            known = (facts.by_email, facts.by_phone, facts.by_row)
            is_newer = any(each and each.accepted_ms >= self._began_ms for each in known)
            # else the plan knows better, which has seen the pull
            row.prospect_id = (id_ if is_newer else None) or write.prospect_id
            if outcome == "send" and self._has_appeared(connection, row):
                return self._claim_activity(connection, row)
            if outcome == "send":
                return self._claim_prospect(connection, row)
            if outcome != "unchanged":
                row.fail(reason or "", Status(outcome))
            else:
                row.status = Status.UNCHANGED
                row.left_alone = reason == EXISTS
                row.notes += [reason] if reason else []
                write = row.waiting.popleft()
                self._outbox.finish(connection, write, Status.UNCHANGED, before=WriteState.PLANNED)
        return self._claim_activity(connection, row)

    def _has_appeared(self, connection: sa.Connection, row: RowInFlight) -> bool:
        """Whether the plan that is applied was to create a person who is known by now, and not
        because its source has created them; then the row is in conflict."""
        found = row.facts.best
        if row.guard is None or row.write.prospect_id is not None or found is None:
            return False
        id_ = row.prospect_id = found.prospect_id
        payload = orjson.loads(row.write.body)
        if lacks_names(payload):  # it was never to create them
            return False
        if self._settler.has_settled(connection, row.write, id_, payload, created=True):
            return False
        row.fail(APPEARED.format(id=id_))
        return True

    def _claim_prospect(self, connection: sa.Connection, row: RowInFlight) -> bool:
        """The prospect's write goes out, or is looked up first, or, where it is known how they are,
        needs neither; returns whether a request follows."""
        receipt = row.facts.best
        if receipt and row.prospect_id is None and self._lost_contacts(row):
            row.must_exist = _DROPPED.format(prospect_id=receipt.prospect_id)
        row.accepted_updated_at_ms = receipt.updated_at_ms if receipt else None
        if row.guard is not None:
            row.guard = row.guard.accounting_for(row.accepted_updated_at_ms)
        looks = self._options.mode == "update-only" or row.must_exist is not None
        looks = looks or (self._options.looks_first and receipt is None)
        is_found = row.prospect_id is not None or lacks_names(orjson.loads(row.write.body))
        looks = looks or (row.memory is not None and is_found)
        write = row.waiting.popleft()._replace(prospect_id=row.prospect_id)
        self._start(connection, row, write, looks=looks)
        if row.prospect_id is None:
            return True
        known = self._spared.judge(connection, row)
        return known is None or self._settle_arrival(connection, row, known)

    def _lost_contacts(self, row: RowInFlight) -> bool:
        """Whether HiringCenter kept none of the contacts of a person who exists already: it would
        find no one by them, and create the person again."""
        facts = row.facts
        dropped = sum(not each.confirmed for each in facts.receipts)
        if self._options.force or not 0 < dropped == len(row.write.aliases):
            return False
        found = facts.by_email or facts.by_phone
        theirs = stored_first_name(found.names) if found else None
        own = first_name(orjson.loads(row.write.body).get("firstName"))
        return theirs is None or own is None or theirs.agrees(self._outbox.hasher.name(own))

    def _creating_only(self, write: Write) -> Write:
        """A write about an unknown person only creates: a prospect that has the contact is left
        alone and shown in the answer, so that it is compared before it is changed."""
        if write.kind != PROSPECTS or write.prospect_id is not None:
            return write
        says = orjson.loads(write.body)
        only_creates = says.get("update") is True and write.row_alias is None
        payload = body_of_creation(says, self._options.rules)
        if not only_creates:
            payload["update"] = says.get("update", False)
        return write._replace(creates=only_creates, body=orjson.dumps(payload))

    def _claim_activity(self, connection: sa.Connection, row: RowInFlight) -> bool:
        """Whether the row's next activity goes out, or is looked up; else it has its outcome, or
        waits for another row's."""
        if row.waiting and self._ending is not None:
            return False
        claimed = self._settler.activities.claim_next(connection, row)
        if claimed is not None:
            write, looks = claimed
            self._start(connection, row, write, looks=looks)
            return True
        if row.waiting:
            self._deferred.append(row)
            return False
        self._finished.append(row)
        if row.own:
            self._rows.done(row)
        return False

    def _start(
        self, connection: sa.Connection, row: RowInFlight, write: Write, *, looks: bool
    ) -> None:
        """`write` goes out, or is looked up first."""
        row.write, row.looks, row.resumed, row.refused_names = write, looks, False, None
        row.began_s = row.tried_s = self._clock.monotonic_s()
        if not looks:
            self._mark_sending(connection, row, Next.SEND)

    def _mark_sending(self, connection: sa.Connection, row: RowInFlight, step: Next) -> None:
        """Key and exact bytes of the row's write are on disk before it goes out."""
        before = WriteState.SENDING
        if step is Next.SEND:
            row.write, before = self._creating_only(row.write), WriteState.PLANNED
        elif step is Next.UPDATE:  # not the bytes that met a person: another key
            row.write = row.write._replace(creates=False, idempotency_key=None)
        if row.is_merged:
            self._settler.prepare_settlement(row)
        now_ms = server_ms(self._api)
        row.write = self._outbox.send(connection, row.write, before, server_ms=now_ms)
        may_change = row.write.kind == PROSPECTS and step is not Next.AGAIN
        if may_change and self._images is not None and row.theirs is not None:
            self._images.keep_before(connection, row.write, row.theirs, self._outbox.hasher.cell)
        row.looks = row.resumed = False
        row.tried_s = self._clock.monotonic_s()

    def _store_results(self, connection: sa.Connection) -> list[tuple[RowInFlight, RowResult]]:
        finished = [(row, row.result) for row in self._finished]
        self._finished = []
        by_run: dict[str, list[RowResult]] = {}
        for row, result in finished:
            by_run.setdefault(row.write.run_id, []).append(result)
        for run_id, results in by_run.items():
            self._results.put(connection, run_id, results, self._clock.wall_ms())
        return finished

    def _report(self, finished: Sequence[tuple[RowInFlight, RowResult]]) -> None:
        for row, result in finished:
            if not row.own:
                self.recovered += self._settler.is_settled(row.write)
                continue
            self.outcomes[result.status] += 1
            self.kept += bool(row.kept)
            self._on_result(result)
            if result.status in (Status.REJECTED, Status.FAILED):
                self._on_reject(reject_of(row.write, result.message or "", row.names))
        if finished:
            self._on_progress(self.outcomes.total())
