"""Notes, tasks and meetings: planned, where a row is one of its own, and sent.

A row on its own is one activity of a prospect who exists; no prospect is created or changed. It is
identified by its key, where the input has a column of keys, else by its prospect and content. A key
is its source's own, but a row that has the same key and says the same in another source (a file
that was renamed) isn't created again. Those of a prospect's row are sent after the prospect.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from connector.errors import Refused
from connector.upsert.outbox.evidence import Near, Pulled, PulledProspect, contacts_of
from connector.upsert.outbox.forgotten import refusing
from connector.upsert.outbox.merge import CONTACTS, full_name
from connector.upsert.outbox.outbox import PROSPECTS, Outbox, UncertainWrite, Write, WriteState
from connector.upsert.outbox.person_plan import Outcome, PushOptions, RowPlan
from connector.upsert.outbox.planner import UNCERTAIN, PlanBook, PlanCounts, reject_of
from connector.upsert.outbox.receipts import ActivityReceipt, Receipt, Receipts, RowResult, Status
from connector.upsert.row_in_flight import RowInFlight
from connector.upsert.rows.cells import InputRow
from connector.upsert.rows.row_checks import NO_JSON, Check, Reject, ValidRow
from connector.upsert.rows.write_schema import current_fields, has_older_names, older_fields

_CHUNK_ROWS = 5_000
_DAY_MS = 86_400_000
_DELETED = "prospect {id} was deleted in HiringCenter. Name another prospect, or leave the row out"
_TWO_PEOPLE = (
    "email and phone belong to two different prospects ({email_id} and {phone_id}). Correct one of "
    "them, or name the prospect by its id in a column prospectId"
)
_CHANGED = (
    "a row with this key was created before, with other content; the API can't change "
    "it. Change it in HiringCenter, or push the row with --force to create it once more"
)
BEHIND = (
    "not sent: an earlier change of this person has no answer yet, and nothing may overtake it; "
    "push again"
)
_NO_ID = "not sent: HiringCenter didn't say which prospect it belongs to"
_NAMES_OF = "names of "  # the fields of a kind, among what is learnt of the API


class _ChunkFacts(NamedTuple):
    """What is known of a chunk of rows: receipts by contact, activities by row and by person, and
    who has which contact in the copy, with all others who are asked for."""

    receipts: Mapping[int, Receipt]
    rows: Mapping[int, ActivityReceipt]
    attached: Collection[tuple[str, str, bytes]]
    near: Near


class ActivityPlanner:
    """Plans one push of `kind`; see `Planner`."""

    def __init__(
        self,
        outbox: Outbox,
        options: PushOptions,
        pulled: Pulled,
        *,
        kind: str,
        dry_run: bool,
        on_reject: Callable[[Reject], None],
        on_planned: Callable[[RowPlan], None] | None = None,
    ) -> None:
        self._outbox, self._options, self._pulled = outbox, options, pulled
        self._kind, self._dry_run = kind, dry_run
        book = self._book = PlanBook(outbox, options, dry_run=dry_run)
        self._receipts, self.counts = book.receipts, book.counts
        with outbox.database.read() as connection:
            self._disputed = self._receipts.disputed(connection)
        self._uncertain = {name for name, of_kind, _ in outbox.uncertain() if of_kind == kind}
        self._people: Mapping[str, PulledProspect] = {}
        self._on_reject, self._on_planned = on_reject, on_planned

    def plan(
        self,
        rows: Iterable[InputRow],
        check: Check,
        on_read: Callable[[int], None] = lambda _: None,
    ) -> PlanCounts:
        """As `Planner.plan` does."""
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

    def _checked(self, row: InputRow, check: Check) -> tuple[ValidRow, Write] | None:
        valid = check(row)
        if not isinstance(valid, Reject):
            try:
                return valid, self._write_of(valid, row)
            except TypeError:
                valid = Reject(row.row_number, row.values, None, NO_JSON)
        reason = valid.public_reason
        result = RowResult(valid.row_number, Status.REJECTED, None, reason, self._kind)
        self._book.end(result)
        self._on_reject(valid)
        return None

    def _write_of(self, row: ValidRow, input_row: InputRow) -> Write:
        """The row as its one write; until its person is known, the body has their contacts."""
        hasher, email, phone = self._outbox.hasher, row.email, row.phone
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

    def _plan_chunk(self, rows: Sequence[tuple[ValidRow, Write]]) -> None:
        facts = self._gather(rows)
        self._people = facts.near.people
        known_rows, repeats = set[int](), list[Write]()
        for row, write in rows:
            assert write.row_alias is not None
            known = facts.rows.get(write.row_alias)
            if known is not None and not self._options.force:
                known_rows.add(write.row_alias)
                reason = None if known.content == write.content else _CHANGED
                self._end(write, Status.UNCHANGED, known.prospect_id, reason, known.record_id)
                continue
            if write.row_alias in self._uncertain and not self._options.force:
                self._end(write, Status.FAILED, row.prospect_id, UNCERTAIN)
                continue
            id_, reason = self._whom(row, write, facts)
            entry = (id_ or "", self._kind, write.content)
            if reason is not None:
                self._end(write, Status.REJECTED, id_, reason)
            elif entry in facts.attached and not self._options.force:
                repeats.append(write._replace(prospect_id=id_))
                self._end(write, Status.UNCHANGED, id_)
            else:
                self._send(row, write, id_)
        self._keep_in_use(facts, known_rows, repeats)

    def _gather(self, rows: Sequence[tuple[ValidRow, Write]]) -> _ChunkFacts:
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
        near = self._pulled.near(*contacts_of(each.contacts for each in others))
        ids = {each.prospect_id for each in others if each.prospect_id is not None}
        ids |= {receipt.prospect_id for receipt in receipts.values()}
        shows = self._on_planned is not None
        people = {**near.people, **self._pulled.by_id(ids - near.people.keys(), with_fields=shows)}
        with self._outbox.database.read() as connection:
            attached = self._receipts.attached(connection, ids | people.keys())
        return _ChunkFacts(receipts, known, attached, near._replace(people=people))

    def _whom(
        self, row: ValidRow, write: Write, facts: _ChunkFacts
    ) -> tuple[str | None, str | None]:
        """Whom a row is about, None if a look-up has to find out; and why it can't be sent."""
        near = facts.near
        if row.prospect_id is not None:
            found = near.people.get(row.prospect_id)
            is_deleted = found is not None and found.deleted_at_ms is not None
            return row.prospect_id, _DELETED.format(id=row.prospect_id) if is_deleted else None
        email, phone = row.contacts.get("email"), row.contacts.get("phone")
        by_email = near.by_email.get(email.casefold(), frozenset()) if email else frozenset()
        by_phone = near.by_phone.get(phone, frozenset()) if phone else frozenset()
        by_email |= set(self._accepted(write.email_alias, facts))
        by_phone |= set(self._accepted(write.phone_alias, facts))
        if len(by_email) == len(by_phone) == 1 and by_email != by_phone:
            (email_id,), (phone_id,) = by_email, by_phone
            return None, _TWO_PEOPLE.format(email_id=email_id, phone_id=phone_id)
        # families share phones: a phone decides only where a row has no email
        ids = by_email if email else by_phone
        return next(iter(ids)) if len(ids) == 1 else None, None

    def _accepted(self, alias: int | None, facts: _ChunkFacts) -> Iterator[str]:
        """Whom a contact was accepted for, unless the copy shows that they were deleted since."""
        receipt = None if alias is None else facts.receipts.get(alias)
        if receipt is not None:
            found = facts.near.people.get(receipt.prospect_id)
            if not self._pulled.is_deleted(found, receipt.accepted_ms):
                yield receipt.prospect_id

    def _send(self, row: ValidRow, write: Write, prospect_id: str | None) -> None:
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
        self._on_planned(RowPlan(write, (), outcome, prospect_id, None, looks, reason, name=name))

    def _keep_in_use(
        self, facts: _ChunkFacts, known: Collection[int], repeats: Sequence[Write]
    ) -> None:
        """What this push repeats is known beyond its retention; written now and then. repeats: rows
        whose activities other rows have created; they are known by themselves from now on."""
        ageing_ms = self._outbox.clock.now_ms() - self._options.retention_days * _DAY_MS // 4
        ageing = {name for name in known if facts.rows[name].seen_ms < ageing_ms}
        if self._dry_run or not (ageing or repeats):
            return
        people = {facts.rows[name].prospect_id for name in known} if ageing else set[str]()
        with self._outbox.database.write() as connection:
            self._receipts.touch(connection, people, rows=ageing)
            for write in repeats:
                id_ = write.prospect_id or ""
                self._receipts.note_activity_row(connection, write, id_, None)


# --- sent ----------------------------------------------------------------------------------------

_Booked = tuple[str, str, bytes]  # prospect id, kind, content: one activity of one person


class ActivitySender:
    """Which activities of rows go out, and what came of them. Every method works inside the
    caller's transaction.

    uncertain: as `Outbox.uncertain` has them. is_settled: whether nothing about the person of a
    write waits for an answer.
    """

    def __init__(
        self,
        outbox: Outbox,
        receipts: Receipts,
        options: PushOptions,
        *,
        uncertain: Collection[UncertainWrite],
        is_settled: Callable[[Write], bool],
    ) -> None:
        self._outbox, self._receipts, self._options = outbox, receipts, options
        self._uncertain, self._is_settled = uncertain, is_settled
        self._older_names = {  # kinds whose fields the API takes under those of its older revision
            name.removeprefix(_NAMES_OF)
            for name, value in outbox.learnt().items()
            if name.startswith(_NAMES_OF) and value == "older"
        }
        self._people: dict[int, str] = {}  # contact → who was found by it
        self._in_flight: set[_Booked] = set()
        # by this push: with `force` each goes out once more, and again only if it was refused
        self._sent: set[_Booked] = set()
        self._created: set[_Booked] = set()

    def claim_next(self, connection: sa.Connection, row: RowInFlight) -> tuple[Write, bool] | None:
        """The row's next activity that goes out, and whether it, or else its person, is looked up
        first. None where nothing of the row is left to be sent, and where something still waits:
        the same activity is on its way for another row."""
        while row.waiting:
            write = row.waiting.popleft()._replace(prospect_id=row.prospect_id)
            booked = _booked(write)
            if row.has_failed or row.left_alone:
                self._close(connection, write, "skipped")
            elif write.prospect_id is None and write.position == 0:
                row.prospect_id = self._people.get(_contacts(write)[0])
                if row.prospect_id is None:
                    return write, True
                row.waiting.appendleft(write)
            elif write.prospect_id is None:
                self._skip(connection, row, write, _NO_ID)
            elif row.is_activity and not self._is_settled(write):
                self._skip(connection, row, write, BEHIND)
            elif booked in self._in_flight:  # of another row about the person, who was looked up
                row.waiting.appendleft(write)
                return None
            elif self._is_attached(connection, booked):
                self._close(connection, write, Status.UNCHANGED)
                if row.is_activity:
                    self._receipts.note_activity_row(connection, write, booked[0], None)
            elif booked in self._uncertain and (booked in self._sent or not self._options.force):
                self._skip(connection, row, write, UNCERTAIN)
            else:
                self._in_flight.add(booked)
                self._sent.add(booked)
                looks = self._options.looks_first and row.status is not Status.CREATED
                return self._as_posted(write), looks
        return None

    def note_person(self, row: RowInFlight, prospect_id: str) -> None:
        """The person of a row that is an activity is known: it continues as if it always was."""
        self._people |= dict.fromkeys(_contacts(row.write)[:1], prospect_id)
        row.prospect_id = prospect_id
        row.waiting.appendleft(row.write)

    def release(self, write: Write) -> None:
        """`write` is settled: other rows that ask for the same activity no longer wait."""
        self._in_flight.discard(_booked(write))

    def accept(
        self,
        connection: sa.Connection,
        row: RowInFlight,
        item: Mapping[str, Any] | None = None,
        *,
        is_new: bool = True,
    ) -> None:
        """The activity in flight is there; it is not created again. item: as it was answered.
        is_new: else it was there before."""
        write = row.write
        assert write.prospect_id is not None
        id_ = (item or {}).get("id")
        row.record_id = None if id_ is None else str(id_)
        self._outbox.finish(connection, write, Status.CREATED, before=row.state)
        self._receipts.attach(connection, write.prospect_id, write.kind, write.content)
        if row.own:
            self._created.add(_booked(write))
        if row.is_activity:
            self._receipts.note_activity_row(connection, write, write.prospect_id, row.record_id)
        if is_new:
            row.added.append(write.kind)
        if item is not None and row.refused_names is not None:
            self._note_names(connection, write)

    def take_other_names(self, row: RowInFlight, error: Refused) -> bool:
        """Whether the API refuses an activity for how its fields are called, so that it goes out
        once more under the other names."""
        kind = row.write.kind
        if error.status != 400 or row.refused_names is not None or kind == PROSPECTS:
            return False
        payload = orjson.loads(row.write.body)
        to_others = current_fields if has_older_names(kind, payload) else older_fields
        renamed = to_others(kind, payload)
        if not any(re.search(rf"\b{name}\b", error.reason) for name in {*payload} ^ {*renamed}):
            return False
        row.write, row.refused_names = row.write._replace(body=orjson.dumps(renamed)), error.reason
        return True

    def _note_names(self, connection: sa.Connection, write: Write) -> None:
        """The API has taken an activity under these names."""
        are_older = has_older_names(write.kind, orjson.loads(write.body))
        names = "older" if are_older else "current"
        self._outbox.note_learnt(connection, f"{_NAMES_OF}{write.kind}", names)
        (self._older_names.add if are_older else self._older_names.discard)(write.kind)

    def _as_posted(self, write: Write) -> Write:
        """An activity with its prospect's id instead of the contacts that have led to them, and
        under the names that the API took last."""
        says = orjson.loads(write.body)
        payload = {name: value for name, value in says.items() if name not in CONTACTS}
        payload = {"prospectId": write.prospect_id, **payload}
        if write.kind in self._older_names:
            payload = older_fields(write.kind, payload)
        return write._replace(body=orjson.dumps(payload))

    def _is_attached(self, connection: sa.Connection, booked: _Booked) -> bool:
        """Whether an activity was created already; with `force` each is created once more."""
        if not self._options.force:
            return booked in self._receipts.attached(connection, [booked[0]])
        return booked in self._created

    def _skip(self, connection: sa.Connection, row: RowInFlight, write: Write, why: str) -> None:
        """An activity isn't sent."""
        row.fail(why, write=write)
        self._close(connection, write, "skipped")

    def _close(self, connection: sa.Connection, write: Write, outcome: str) -> None:
        """A planned activity needs no request."""
        self._outbox.finish(connection, write, outcome, before=WriteState.PLANNED)


def _booked(write: Write) -> _Booked:
    return (write.prospect_id or "", write.kind, write.content)


def _contacts(write: Write) -> list[int]:
    return [name for name in (write.email_alias, write.phone_alias) if name is not None]
