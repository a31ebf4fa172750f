"""The plan of notes, tasks and meetings on their own: whose each is, and which are there already.

A row is one activity of a prospect who exists; no prospect is created or changed. It is identified
by its key, where the input has a column of keys, else by its prospect and content. A key is its
source's own, but a row that has the same key and says the same in another source (a file that was
renamed) isn't created again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import orjson

from connector.clock import SteadyClock
from connector.upsert.outbox.evidence import Pulled, PulledProspect
from connector.upsert.outbox.forgotten import refusing
from connector.upsert.outbox.merge import full_name
from connector.upsert.outbox.outbox import Outbox, Write
from connector.upsert.outbox.person_plan import Outcome, PlannedRow
from connector.upsert.outbox.planner import (
    UNCERTAIN,
    PlanBook,
    PlanCounts,
    PushOptions,
    reject_of,
)
from connector.upsert.outbox.receipts import (
    ActivityReceipt,
    Receipt,
    Receipts,
    RowResult,
    Status,
)
from connector.upsert.rows.cells import InputRow
from connector.upsert.rows.row_checks import ActivityRow, Reject

ActivityCheck = Callable[[InputRow], ActivityRow | Reject]
_CHUNK_ROWS = 5_000
_DAY_MS = 86_400_000
_DELETED = "prospect {id} was deleted in HiringCenter. Name another prospect, or leave the row out"
_TWO_PEOPLE = (
    "email and phone belong to two different prospects ({email_id} and {phone_id}). Correct one of "
    "them, or name the prospect by its id in a column prospectId"
)
_CHANGED = (
    "a row with this key was created before, and said something else then; the API can't change "
    "it. Change it in HiringCenter, or push the row with --force to create it once more"
)
_NO_JSON = "a value of this row can't be written as JSON; change it to text or a plain number"


class _Whom(NamedTuple):
    """Whom a row is about. id: None if a look-up has to find out. reason: why it can't be sent."""

    id: str | None
    reason: str | None = None


@dataclass(frozen=True)
class _ChunkFacts:
    """What is known of a chunk of rows: receipts by contact, activities by row and by person, and
    who has which contact in the copy."""

    receipts: Mapping[int, Receipt]
    rows: Mapping[int, ActivityReceipt]
    attached: Collection[tuple[str, str, bytes]]
    by_email: Mapping[str, frozenset[str]]
    by_phone: Mapping[str, frozenset[str]]
    people: Mapping[str, PulledProspect]


class ActivityPlanner:
    """Plans one push of `kind`. clock: the ledger's. dry_run: nothing is stored."""

    def __init__(
        self,
        outbox: Outbox,
        options: PushOptions,
        pulled: Pulled,
        *,
        kind: str,
        dry_run: bool,
        clock: SteadyClock,
    ) -> None:
        self._outbox, self._options, self._pulled = outbox, options, pulled
        self._kind, self._dry_run, self._clock = kind, dry_run, clock
        self._receipts = Receipts(outbox.scope)
        self._book = PlanBook(outbox, options, clock, dry_run=dry_run)
        self.counts = self._book.counts
        with outbox.database.read() as connection:
            self._disputed = self._receipts.disputed(connection)
        self._uncertain = {name for name, of_kind, _ in outbox.uncertain() if of_kind == kind}
        self._people: Mapping[str, PulledProspect] = {}
        self._on_reject: Callable[[Reject], None] = lambda _: None
        self._on_planned: Callable[[PlannedRow], None] | None = None

    def plan(
        self,
        rows: Iterable[InputRow],
        check: ActivityCheck,
        *,
        on_reject: Callable[[Reject], None],
        on_read: Callable[[int], None],
        on_planned: Callable[[PlannedRow], None] | None = None,
    ) -> PlanCounts:
        """Read, check and compare every row; nothing is sent. See `Planner.plan`."""
        self._on_reject, self._on_planned = on_reject, on_planned
        if not self._dry_run:
            self._outbox.drop_planned(source=self._options.source)
        check = refusing(check, self._options.forgotten)
        remaining = iter(rows)
        while chunk := list(islice(remaining, _CHUNK_ROWS)):
            checked = [found for row in chunk if (found := self._checked(row, check)) is not None]
            self._plan_chunk(checked)
            self._book.store()
            self.counts.rows += len(chunk)
            on_read(self.counts.rows)
        return self.counts

    def _checked(self, row: InputRow, check: ActivityCheck) -> tuple[ActivityRow, Write] | None:
        valid = check(row)
        if isinstance(valid, ActivityRow):
            try:
                return valid, self._write_of(valid, row)
            except TypeError:
                valid = Reject(row.row_number, row.values, None, _NO_JSON)
        reason = valid.public_reason
        result = RowResult(valid.row_number, Status.REJECTED, None, reason, self._kind)
        self._book.end(result)
        self._on_reject(valid)
        return None

    def _write_of(self, row: ActivityRow, input_row: InputRow) -> Write:
        """The row as its one write; until its person is known, the body has their contacts."""
        hasher, (email, phone) = self._outbox.hasher, row.identities
        says = {"kind": self._kind, "payload": row.payload}
        if row.key is None:
            who = [row.prospect_id] if row.prospect_id is not None else [email, phone]
            identity = {**says, "who": who}
        else:
            identity = {"kind": self._kind, "key": row.key, "source": self._options.source}
            says["key"] = row.key
        return Write(
            run_id=self._options.run_id,
            source=self._options.source,
            row_number=row.row_number,
            position=0,
            kind=self._kind,
            person=0,
            email_alias=None if email is None else hasher.alias("email", email),
            phone_alias=None if phone is None else hasher.alias("phone", phone),
            row_alias=hasher.alias("row", hasher.content(identity).hex()),
            content=hasher.content(row.payload if row.key is None else says),
            body=orjson.dumps(row.payload),
            row_values=orjson.dumps(input_row.values, default=str),
            note="; ".join(row.warnings) or None,
        )

    def _plan_chunk(self, rows: Sequence[tuple[ActivityRow, Write]]) -> None:
        facts = self._gather(rows)
        self._people = facts.people
        used_rows, used_people = set[int](), set[str]()
        for row, write in rows:
            assert write.row_alias is not None
            known = facts.rows.get(write.row_alias)
            if known is not None and not self._options.force:
                used_rows.add(write.row_alias)
                used_people.add(known.prospect_id)
                reason = None if known.content == write.content else _CHANGED
                self._end(write, Status.UNCHANGED, known.prospect_id, reason, known.record_id)
                continue
            if write.row_alias in self._uncertain and not self._options.force:
                self._end(write, Status.FAILED, row.prospect_id, UNCERTAIN)
                continue
            whom = self._whom(row, write, facts)
            entry = (whom.id or "", self._kind, write.content)
            if whom.reason is not None:
                self._end(write, Status.REJECTED, whom.id, whom.reason)
            elif entry in facts.attached and not self._options.force:
                used_people.add(entry[0])
                self._end(write, Status.UNCHANGED, whom.id)
            else:
                self._send(row, write, whom.id)
        self._touch(facts, used_rows, used_people)

    def _gather(self, rows: Sequence[tuple[ActivityRow, Write]]) -> _ChunkFacts:
        contacts = {
            alias
            for _, write in rows
            for alias in (write.email_alias, write.phone_alias)
            if alias is not None and alias not in self._disputed
        }
        with self._outbox.database.read() as connection:
            receipts = self._receipts.find(connection, contacts)
            known = self._receipts.activity_rows(
                connection, {write.row_alias for _, write in rows if write.row_alias is not None}
            )
        others = [each for each, write in rows if write.row_alias not in known]
        near = self._pulled.near(
            {each.contacts["email"].casefold() for each in others if "email" in each.contacts},
            {each.contacts["phone"] for each in others if "phone" in each.contacts},
        )
        ids = {each.prospect_id for each in others if each.prospect_id is not None}
        ids |= {receipt.prospect_id for receipt in receipts.values()}
        shows = self._on_planned is not None
        people = {**near.people, **self._pulled.by_id(ids - near.people.keys(), with_fields=shows)}
        with self._outbox.database.read() as connection:
            attached = self._receipts.attached(connection, ids | people.keys())
        return _ChunkFacts(receipts, known, attached, near.by_email, near.by_phone, people)

    def _whom(self, row: ActivityRow, write: Write, facts: _ChunkFacts) -> _Whom:
        """Whom a row is about, as far as that is known without a request."""
        if row.prospect_id is not None:
            found = facts.people.get(row.prospect_id)
            if found is not None and found.deleted_at_ms is not None:
                return _Whom(row.prospect_id, _DELETED.format(id=row.prospect_id))
            return _Whom(row.prospect_id)
        email, phone = row.contacts.get("email"), row.contacts.get("phone")
        by_email = facts.by_email.get(email.casefold(), frozenset()) if email else frozenset()
        by_phone = facts.by_phone.get(phone, frozenset()) if phone else frozenset()
        by_email |= set(self._accepted(write.email_alias, facts))
        by_phone |= set(self._accepted(write.phone_alias, facts))
        if len(by_email) == len(by_phone) == 1 and by_email != by_phone:
            (email_id,), (phone_id,) = by_email, by_phone
            return _Whom(None, _TWO_PEOPLE.format(email_id=email_id, phone_id=phone_id))
        # families share phones: a phone decides only where a row has no email
        ids = by_email if email else by_phone
        return _Whom(next(iter(ids)) if len(ids) == 1 else None)

    def _accepted(self, alias: int | None, facts: _ChunkFacts) -> Iterator[str]:
        """Whom a contact was accepted for, unless the copy shows that they were deleted since."""
        receipt = None if alias is None else facts.receipts.get(alias)
        if receipt is not None:
            found = facts.people.get(receipt.prospect_id)
            if not self._pulled.is_deleted(found, receipt.accepted_ms):
                yield receipt.prospect_id

    def _send(self, row: ActivityRow, write: Write, prospect_id: str | None) -> None:
        hasher = self._outbox.hasher
        person = write.email_alias or write.phone_alias or 0
        if prospect_id is not None:
            person = hasher.alias("prospect", prospect_id)
        else:
            write = write._replace(body=orjson.dumps({**row.payload, **row.contacts}))
        self._book.send([write._replace(person=person, prospect_id=prospect_id)])
        self.counts.would_create += 1
        self.counts.looks += prospect_id is None
        if self._options.looks_first and not self._options.force:
            self.counts.look_ups += 1
        self._show(write, "create", prospect_id, None, looks=prospect_id is None)

    def _end(
        self,
        write: Write,
        outcome: Status,
        prospect_id: str | None,
        reason: str | None = None,
        record_id: str | None = None,
    ) -> None:
        """A row that needs no request."""
        message = "; ".join(filter(None, (write.note, reason))) or None
        number, kind = write.row_number, self._kind
        self._book.end(RowResult(number, outcome, prospect_id, message, kind, record_id))
        self._show(write, outcome.value, prospect_id, reason)  # type: ignore[arg-type]
        if outcome is not Status.UNCHANGED:
            self._on_reject(reject_of(write, reason or "", None))

    def _show(
        self,
        write: Write,
        outcome: Outcome,
        prospect_id: str | None,
        reason: str | None,
        *,
        looks: bool = False,
    ) -> None:
        if self._on_planned is None:
            return
        copied = self._people.get(prospect_id or "")
        name = None if copied is None else full_name(copied.fields)
        planned = PlannedRow(
            write.row_number, write, (), outcome, prospect_id, None, looks, False, reason, name=name
        )
        self._on_planned(planned)

    def _touch(self, facts: _ChunkFacts, rows: Collection[int], people: Collection[str]) -> None:
        """Keep what rows of this push have repeated beyond its retention; written now and then."""
        now_ms = self._clock.now_ms()
        ageing_ms = now_ms - self._options.retention_days * _DAY_MS // 4
        ageing = {name for name in rows if facts.rows[name].seen_ms < ageing_ms}
        if ageing and not self._dry_run:
            with self._outbox.database.write() as connection:
                self._receipts.touch(connection, people, now_ms, rows=ageing)
