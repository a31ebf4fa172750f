"""What an answer, a lost answer or an expired key means for a row, and the outbox's steps after it.

Every method works inside the caller's transaction. The prospect in the answer is the row's from
then on: its receipt and aliases, and any uncertainty or dispute, are updated to match.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import orjson
import sqlalchemy as sa

from connector.api.client import ApiClient
from connector.errors import Refused, UnexpectedAnswer, Unreachable
from connector.upsert.activities import ActivitySender
from connector.upsert.delivery import Finding, Item, Unclear, server_ms
from connector.upsert.looking import Looking
from connector.upsert.outbox.entries import Entries, Refusal, Settlement, unpacked
from connector.upsert.outbox.evidence import fields_of_item
from connector.upsert.outbox.forgotten import WAS_FORGOTTEN
from connector.upsert.outbox.matching import (
    conflict_with,
    first_name,
    same_value,
    stored_first_name,
)
from connector.upsert.outbox.merge import (
    CONTACTS,
    LABELS_SENT,
    LABELS_STAY,
    MERGED,
    NAMES,
    NO_SUCH_PERSON,
    NOT_AGAIN_WITHOUT_NAMES,
    Fingerprints,
    NotSendable,
    has_changed,
    labels_were,
    lacks_names,
    new_shown,
)
from connector.upsert.outbox.outbox import (
    CHANGED_ANOTHER,
    CONFLICT,
    PROSPECTS,
    Outbox,
    Verdict,
    Write,
    WriteState,
    time_ms,
)
from connector.upsert.outbox.person_plan import DELETED, PushOptions, kept_note, unread_note
from connector.upsert.outbox.planner import EXISTS, UNCERTAIN
from connector.upsert.outbox.receipts import Receipts, Status
from connector.upsert.row_in_flight import APPEARED, GuardConflict, Next, RowInFlight
from connector.upsert.rows.write_schema import LABELS_REMOVE
from connector.upsert.undoing import BeforeImages

_FOR_ITS_CONTENT = frozenset({400, 413, 415, 422})  # refused so, a row is refused again unchanged
_ABSENT = (
    "no prospect has this email or phone, and --mode update-only never creates prospects; push "
    "the row with --mode upsert to create one"
)
_UNANSWERED = (
    "no usable answer; the next push of any file asks again with the same key, so that it is "
    "applied once ({error})"
)
_ANOTHER_CREATED = (
    "HiringCenter created prospect {answered}, where {expected} was to be changed: {expected} "
    "no longer has this email or phone. Look at both in HiringCenter; if they are one person, "
    "delete {answered} and correct the contact in the row"
)
_ANOTHER_CHANGED = (
    "HiringCenter changed prospect {answered}, where {expected} was expected: the row's email or "
    "phone belongs to {answered} now. Look at both in HiringCenter, and correct {answered}"
)


class Settler:
    """Settles what came of writes.

    blocked: names of people with a write whose answer is missing; nothing may overtake it.
    uncertain, disputed: as `Outbox.uncertain` and `Receipts.disputed` have them. activities: what
    rows add to people. recovering: what earlier runs left open isn't settled yet. unanswered: why
    one of those is still open. looking: its rules may change by what an answer shows.
    """

    def __init__(
        self,
        outbox: Outbox,
        receipts: Receipts,
        options: PushOptions,
        images: BeforeImages | None,
        looking: Looking,
        api: ApiClient,
    ) -> None:
        self._outbox, self._receipts, self._images = outbox, receipts, images
        self._options, self._clock, self._api = options, outbox.clock, api
        self._entries = Entries(outbox.scope, outbox.hasher)
        self.blocked: set[int | str] = set()
        self.uncertain = outbox.uncertain()
        self._looking, self._labels_sent = looking, outbox.learnt().get(LABELS_SENT)
        with outbox.database.read() as connection:
            self.disputed = receipts.disputed(connection)
        self.activities = ActivitySender(
            outbox, receipts, options, uncertain=self.uncertain, is_settled=self.is_settled
        )
        self.recovering = True
        self.unanswered: BaseException | None = None
        self._last_answer_s = float("-inf")

    @property
    def unreachable(self) -> BaseException | None:
        """Why nothing was settled, if the API hasn't answered anything at all."""
        return self.unanswered if self._last_answer_s == float("-inf") else None

    def is_settled(self, write: Write) -> bool:
        """Whether no write of the person of `write` waits for an answer."""
        return self.blocked.isdisjoint(write.person_names)

    def settle(
        self, connection: sa.Connection, row: RowInFlight, arrived: Finding | BaseException
    ) -> Next:
        """Record the result of the write in flight."""
        if isinstance(arrived, BaseException):
            return self._settle_error(connection, row, arrived)
        if arrived.asked:
            self._last_answer_s = self._clock.monotonic_s()
        if arrived.answer is not None and arrived.answer.message:
            note = f"HiringCenter says: {arrived.answer.message}"
            row.notes += [] if note in row.notes else [note]
        match arrived.verdict:
            case Verdict.ANSWERED:
                return self._settle_answer(connection, row, arrived)
            case Verdict.MET:
                return self._settle_meeting(connection, row, arrived)
            case Verdict.ABSENT | Verdict.PRESENT | Verdict.EQUAL:
                return self._settle_look_up(connection, row, arrived)
            case _:
                return self._settle_fate(connection, row, arrived)

    def _settle_answer(self, connection: sa.Connection, row: RowInFlight, arrived: Finding) -> Next:
        answer, write = arrived.answer, row.write
        assert answer is not None
        if write.kind != PROSPECTS:
            self.activities.accept(connection, row, answer.item)
        elif answer.status == 201 and not _is_known(write, answer.item):
            self._accept(connection, row, answer.item, Status.CREATED, is_answer=True)
            expected = write.prospect_id
            if not _is_expected(write, row.prospect_id) and arrived.expected_is_deleted:
                row.notes.append(f"prospect {expected} was deleted in HiringCenter")
            elif not _is_expected(write, row.prospect_id):
                row.fail(_ANOTHER_CREATED.format(answered=row.prospect_id, expected=expected))
        elif _leaves_matches_alone(write) and self._refuse_forgotten(connection, row, answer.item):
            pass
        elif _leaves_matches_alone(write) and row.guard is not None:
            self._refuse_appeared(connection, row, answer.item)
        elif _leaves_matches_alone(write):
            row.left_alone = True
            row.notes.append(EXISTS)
            self._accept(connection, row, answer.item, Status.UNCHANGED)
        elif not _is_expected(write, answer.item.get("id")):
            self._accept_another(connection, row, answer.item)
        else:
            self._accept(connection, row, answer.item, Status.UPDATED, is_answer=True)
            row.check_put_back(answer.item)
        return Next.SETTLED

    def _settle_look_up(
        self, connection: sa.Connection, row: RowInFlight, arrived: Finding
    ) -> Next:
        """What the row asks for is there already, or it is sent."""
        row.note_found(arrived)
        if row.is_merged and arrived.verdict is Verdict.ABSENT:
            return self._settle_absence(connection, row)
        if row.is_merged:
            return self._settle_look_at_person(connection, row, arrived)
        if arrived.verdict is not Verdict.EQUAL:
            return Next.SEND
        if row.write.kind == PROSPECTS:  # a row without contact
            self._accept(connection, row, arrived.item or {}, Status.UNCHANGED)
        else:
            self.activities.accept(connection, row, is_new=False)
        return Next.SETTLED

    def _settle_absence(self, connection: sa.Connection, row: RowInFlight) -> Next:
        """No person has the row's contacts, or theirs was deleted: create one, or not."""
        id_ = row.write.prospect_id
        if id_ is not None:
            self._receipts.forget_people(connection, [id_])
        if row.guard is not None and id_ is not None:
            why = row.guard.deleted_reason(id_)
            self._refuse(connection, row, Status.FAILED, why)
        elif self._options.mode == "update-only":
            self._refuse(connection, row, Status.REJECTED, _ABSENT)
        elif id_ is None and row.must_exist is not None:
            self._refuse(connection, row, Status.REJECTED, row.must_exist)
        elif id_ is not None and not self._restores(row):
            if self._is_uncertain(row):
                self._refuse(connection, row, Status.FAILED, UNCERTAIN)
            else:
                self._leave(connection, row, DELETED)
                row.stays_deleted = True
        elif lacks_names(row.says):
            why = NO_SUCH_PERSON if id_ is None else NOT_AGAIN_WITHOUT_NAMES
            self._refuse(connection, row, Status.REJECTED, why)
        else:
            if id_ is not None:
                row.notes.append(f"prospect {id_} was deleted in HiringCenter")
            row.write = row.write._replace(prospect_id=None)
            return Next.SEND
        return Next.SETTLED

    def _settle_look_at_person(
        self, connection: sa.Connection, row: RowInFlight, arrived: Finding
    ) -> Next:
        """The person was looked at: nothing is left to change, or the row is sent with what is."""
        item = arrived.item or {}
        if self._refuse_forgotten(connection, row, item):
            return Next.SETTLED
        is_named = row.write.exported is not None  # its id decides, whatever they are called
        if not (row.undoes or is_named) and self._is_another(connection, row, item):
            return Next.SETTLED
        row.note_read(arrived)
        if arrived.conflicts and row.guard is not None:
            row.guard = replace(row.guard, conflicts=arrived.conflicts)
            row.write = row.write._replace(guard=row.guard.to_bytes())
            row.failures.append(row.guard.changed_reason(arrived.conflicts, row.write.prospect_id))
        if arrived.verdict is Verdict.PRESENT:
            return Next.SEND
        if arrived.person is None:  # no one was read: nothing is settled
            self._leave(connection, row, unread_note(row.merged))
        elif row.merged and row.merged.kept and self._is_uncertain(row):
            self._refuse(connection, row, Status.FAILED, UNCERTAIN)
        else:
            self._accept(connection, row, item, Status.UNCHANGED)
        return Next.SETTLED

    def _restores(self, row: RowInFlight) -> bool:
        """Whether a row creates its person again, who was deleted in HiringCenter."""
        rules = self._options.rules
        if row.write.exported is not None or row.memory is None:
            return False
        return rules.restore or rules.force or has_changed([row.memory], self._cell)

    def _is_uncertain(self, row: RowInFlight) -> bool:
        """Whether an earlier attempt to send the row may or may not have been applied."""
        return not self.uncertain.isdisjoint(row.write.uncertain_names)

    @property
    def _cell(self) -> Fingerprints:
        return self._outbox.hasher.cell

    def prepare_settlement(self, row: RowInFlight) -> None:
        """What the answer to the row's write settles goes with it: its cells, without those that
        were left out."""
        settlement = None
        # of an undo nothing: the same input pushed again finds its own values settled, and keeps
        # these
        if row.memory is not None and not row.undoes:
            settlement = self._entries.settlement(
                row.write,
                row.memory,
                row.merged.settled if row.merged else row.memory.says.keys(),
                row.siblings or {},
                prospect_id=row.write.prospect_id,
                rows=2 if row.siblings else 1,
                at_ms=self._clock.now_ms(),
            )
        row.write = row.write._replace(settles=settlement and settlement.to_bytes())

    def _settle_cells(
        self,
        connection: sa.Connection,
        row: RowInFlight,
        item: Item,
        *,
        is_answer: bool,
        stay: Collection[str] = (),
    ) -> None:
        """What the row says is its source's base from now on. is_answer: `item` shows what the API
        has made of it; else it may show later edits as well. stay: fields that are as they were
        before."""
        if row.looks:  # nothing went out
            self.prepare_settlement(row)
        write = row.write
        if row.left_alone or write.kind != PROSPECTS or write.settles is None:
            return
        settlement = Settlement.from_bytes(write.settles)
        if stay and row.memory is not None:
            settlement = settlement.without(stay, row.memory.remembered.base)
        known = unpacked(settlement.entry.cells)[0]
        sent = orjson.loads(write.body) if is_answer else {}
        shown = new_shown(sent, fields_of_item(item), self._cell)
        own = {name: pair for name, pair in shown.items() if pair[0] in known.get(name, ())}
        accepted = settlement.accepted(row.prospect_id, own, self._clock.now_ms())
        self._entries.put(connection, write.source, [accepted])

    def _settle_meeting(
        self, connection: sa.Connection, row: RowInFlight, arrived: Finding
    ) -> Next:
        """A creation has met a prospect, and left it as it is."""
        item, refusal = arrived.item or {}, arrived.refusal
        if self._refuse_forgotten(connection, row, item):
            return Next.SETTLED
        if row.guard is not None:
            self._refuse_appeared(connection, row, item)
            return Next.SETTLED
        if self._is_another(connection, row, item):
            return Next.SETTLED
        if row.memory is None:  # of an earlier run: its source's next push finds the person
            row.write = row.write._replace(prospect_id=None)
            self._leave(connection, row)
            return Next.SETTLED
        if refusal is not None:
            self._refuse(connection, row, Status.REJECTED, str(refusal), people=refusal.people)
            return Next.SETTLED
        row.note_read(arrived)
        if row.merged is not None and row.merged.to_send:
            row.note_found(arrived)
            return Next.UPDATE
        self.prepare_settlement(row)
        self._accept(connection, row, item, self._status_of_met(row.write, arrived))
        return Next.SETTLED

    def _status_of_met(self, write: Write, arrived: Finding) -> Status:
        """The outcome for a person who was met and is as the row says: a server that doesn't know
        `update: false` may have changed them."""
        changed_ms, sent_ms = time_ms(arrived.item or {}, "updatedAt"), write.sent_server_ms
        if sent_ms is None and write.sent_ms is not None:  # sent before the first answer came
            server_now_ms = server_ms(self._api)
            if server_now_ms is not None:
                sent_ms = server_now_ms - (self._clock.now_ms() - write.sent_ms)
        if arrived.was_refused or changed_ms is None or sent_ms is None or changed_ms < sent_ms:
            return Status.UNCHANGED
        return Status.UPDATED

    def _refuse_forgotten(self, connection: sa.Connection, row: RowInFlight, item: Item) -> bool:
        """Whether a row is refused, since HiringCenter shows that it is about a person who was
        forgotten, and whose contacts weren't known then."""
        if not self._options.forgotten.has_id(item.get("id")):
            return False
        row.write = row.write._replace(prospect_id=None)
        self._refuse(connection, row, Status.REJECTED, WAS_FORGOTTEN)
        return True

    def _is_another(self, connection: sa.Connection, row: RowInFlight, item: Item) -> bool:
        """Whether a row is refused, since the person with its contact seems to be another one;
        else it is about that person."""
        write, payload = row.write, row.says
        id_ = write.prospect_id if item.get("id") is None else str(item["id"])
        found = conflict_with(payload, item)
        if (
            found is None
            or self._options.allow_shared_contact
            or self.has_settled(connection, write, id_, payload)
        ):
            row.write = write._replace(prospect_id=id_)
            return False
        about = [id_] if id_ else ()
        self._refuse(connection, row, Status.REJECTED, found.reason, people=about)
        row.names = found.names
        return True

    def has_settled(
        self,
        connection: sa.Connection,
        write: Write,
        prospect_id: str | None,
        payload: Item,
        *,
        created: bool = False,
    ) -> bool:
        """Whether the source of `write` has settled its first name on that very person. created:
        by creating them."""
        name = first_name(payload.get("firstName"))
        if name is None or prospect_id is None:
            return False
        source, alias = self._outbox.hasher.source_and_name(write.source, name)
        found = self._receipts.settled(connection, source, [prospect_id])
        return found.get((prospect_id, alias), False) if created else (prospect_id, alias) in found

    def _settle_fate(self, connection: sa.Connection, row: RowInFlight, arrived: Finding) -> Next:
        write = row.write
        if arrived.verdict is Verdict.NOT_APPLIED:
            if self._clock.monotonic_s() - row.began_s < self._options.retry_total_s:
                return Next.AGAIN
            self._leave_open(row, "the API has forgotten its key repeatedly")
        elif arrived.verdict is Verdict.UNKNOWN:
            self._finish(connection, row, "uncertain", after=WriteState.UNCERTAIN)
            self.uncertain |= write.uncertain_names
            if write.settles is not None:  # kept, until it is known
                kept = Settlement.from_bytes(write.settles)
                self._entries.put(connection, write.source, [kept])
            if write.kind == PROSPECTS and write.prospect_id is not None:
                self._receipts.doubt(connection, write.prospect_id)
            row.fail(UNCERTAIN)
        elif write.kind != PROSPECTS:
            self.activities.accept(connection, row)
        else:
            status = Status.CREATED if write.prospect_id is None else Status.UPDATED
            self._accept(connection, row, arrived.item or {}, status)
        return Next.SETTLED

    def _settle_error(
        self, connection: sa.Connection, row: RowInFlight, error: BaseException
    ) -> Next:
        if isinstance(error, Refused) and self.activities.take_other_names(row, error):
            return Next.UPDATE
        if isinstance(error, Refused):
            self._settle_refusal(connection, row, error)
        elif isinstance(error, Unclear | GuardConflict):
            is_final = isinstance(error, GuardConflict)
            self._refuse(connection, row, Status.FAILED, str(error), is_final=is_final)
        elif isinstance(error, NotSendable):
            self._refuse(connection, row, Status.REJECTED, str(error), people=error.people)
        elif isinstance(error, Unreachable | UnexpectedAnswer):
            if self.recovering:  # one write that is never answered must not stop all others
                self.unanswered = error
            elif self._last_answer_s <= row.tried_s:  # no other was answered either: an outage
                return Next.STOP
            self._leave_open(row, _UNANSWERED.format(error=error))
        else:
            return Next.STOP
        return Next.SETTLED

    def _settle_refusal(self, connection: sa.Connection, row: RowInFlight, error: Refused) -> None:
        write = row.write
        if (
            error.status == 409
            and write.kind == PROSPECTS
            and not write.creates
            and _leaves_matches_alone(write)
        ):
            row.write, row.left_alone = write._replace(prospect_id=None), True
            self._leave(connection, row, EXISTS)
        else:
            reason = row.refused_names or error.reason
            why = f"HiringCenter refused it ({error.status}): {reason}"
            about = () if error.status in _FOR_ITS_CONTENT else None
            self._refuse(connection, row, Status.REJECTED, why, people=about)

    def _leave_open(self, row: RowInFlight, why: str) -> None:
        """It stays `sending`, for the next run; nothing about this person goes out before."""
        self.blocked |= set(row.write.person_names)
        row.fail(why)

    def _refuse(
        self,
        connection: sa.Connection,
        row: RowInFlight,
        status: Status,
        why: str,
        *,
        is_final: bool = True,
        people: Collection[str] | None = None,
    ) -> None:
        """is_final: the same write would be refused again. people: whom that concerns besides the
        row's own person: it isn't tried again until it, or one of them, has changed."""
        is_conflict = row.guard is not None and is_final and status is Status.FAILED
        self._finish(connection, row, CONFLICT if is_conflict else status)
        row.fail(why, status)
        if is_final:
            self._note_undone(connection, row)
        if people is not None:
            self._remember(connection, row, people, row.failures[-1])

    def _remember(
        self,
        connection: sa.Connection,
        row: RowInFlight,
        people: Collection[str],
        reason: str,
        known_ms: int | None = None,
    ) -> None:
        """The row isn't tried, or its person looked at, again until one of them has changed.
        known_ms: a moment of the server's clock that has passed."""
        write = row.write
        if not (row.own and row.is_merged) or row.guard is not None:
            return
        now_ms = self._clock.now_ms()
        # whom its contacts led to counts too, who may be deleted by now: they still lead there
        known = (write.prospect_id, row.prospect_id)
        about = frozenset((*people, *filter(None, known)))
        asked = self._options.asked(write.content, self._outbox.hasher)
        server_now_ms = server_ms(self._api)
        moment_ms = now_ms if server_now_ms is None else server_now_ms
        refused = Refusal(asked, about, reason, max(moment_ms, known_ms or 0))
        self._entries.put_refused(connection, write, refused, now_ms)

    def _note_undone(self, connection: sa.Connection, row: RowInFlight) -> None:
        """An undo is done with a person, whether it has put them back or left them alone."""
        id_ = row.write.prospect_id
        if row.undoes is not None and id_ is not None and self._images is not None:
            self._images.mark_undone(connection, row.undoes, id_, row.write.run_id)

    def _refuse_appeared(self, connection: sa.Connection, row: RowInFlight, item: Item) -> None:
        """A plan was to create a person; as it was applied, its write met one who exists."""
        id_ = item.get("id")
        row.prospect_id = None if id_ is None else str(id_)
        row.write = row.write._replace(prospect_id=row.prospect_id)
        self._refuse(connection, row, Status.FAILED, APPEARED.format(id=id_))

    def _leave(self, connection: sa.Connection, row: RowInFlight, note: str | None = None) -> None:
        """Nothing was to be done for a person, and nothing is settled."""
        self._finish(connection, row, Status.UNCHANGED)
        row.status = Status.UNCHANGED
        row.notes += [note] if note else []

    def _finish(
        self,
        connection: sa.Connection,
        row: RowInFlight,
        outcome: str,
        prospect_id: str | None = None,
        *,
        after: WriteState = WriteState.CLOSED,
    ) -> None:
        """prospect_id: whom it was about after all; None: whom it was meant for."""
        write = row.write if prospect_id is None else row.write._replace(prospect_id=prospect_id)
        self._outbox.finish(connection, write, outcome, before=row.state, after=after)

    def _accept(
        self,
        connection: sa.Connection,
        row: RowInFlight,
        item: Item,
        status: Status,
        *,
        is_answer: bool = False,
    ) -> None:
        """The API has `item` after the write, as `status` says: what the row says is settled."""
        write, row.status = row.write, status
        if not row.looks:
            row.changed = row.fields_sent
        row.prospect_id = str(item["id"]) if item.get("id") is not None else write.prospect_id
        self._finish(connection, row, status, row.prospect_id)
        stay = self._learn_labels(connection, row, item) if is_answer else ()
        self._settle_cells(connection, row, item, is_answer=is_answer, stay=stay)
        self._note_undone(connection, row)
        if is_answer and status is Status.UPDATED:
            self._note_left(connection, write, item)
        row.notes += filter(None, (kept_note(row.kept, row.merged), unread_note(row.merged)))
        if row.merged is not None and row.merged.unread and (row.was_looked_up or row.was_scanned):
            # fields that are only filled weren't shown: another look would bring nothing
            self._remember(connection, row, (), "", time_ms(item, "updatedAt"))
        self._forget_uncertain(connection, write, row.prospect_id)
        if row.prospect_id is None:
            row.notes.append("HiringCenter didn't name the prospect")
        else:
            self._store_receipt(connection, row, row.prospect_id, item)

    def _store_receipt(
        self, connection: sa.Connection, row: RowInFlight, id_: str, item: Item
    ) -> None:
        """The row's contacts lead to the prospect from now on; its source has named them."""
        write, says, hasher = row.write, row.says, self._outbox.hasher
        first, last = (item.get(name, says.get(name)) for name in NAMES)
        before_ms = None if row.theirs is None else row.theirs.updated_at_ms
        self._receipts.accept(
            connection,
            write,
            id_,
            kept=[name for name in CONTACTS if _is_kept(name, says, item)],
            names=hasher.names(first, last),
            updated_at_ms=time_ms(item, "updatedAt"),
            # 0 where they didn't exist, or nothing was written: a person who is read with the
            # answer's `updatedAt` is as the answer shows
            before_ms=before_ms if row.status is Status.UPDATED else 0,
            is_written=not row.looks,
        )
        if write.row_alias is None and not self.disputed.keys().isdisjoint(write.aliases):
            self._receipts.settle_dispute(connection, write.aliases)
            for alias in write.aliases:
                self.disputed.pop(alias, None)
        name = first_name(says.get("firstName"))
        if name is not None and not row.left_alone and not row.undoes:
            source, alias = hasher.source_and_name(write.source, name)
            is_created = row.status is Status.CREATED
            self._receipts.settle_name(connection, id_, source, alias, created=is_created)

    def _learn_labels(
        self, connection: sa.Connection, row: RowInFlight, item: Item
    ) -> tuple[str, ...]:
        """Whether the API merges or replaces labels, from the answer to a write whose person was
        looked up right before; returns the fields whose labels were to go and are still there."""
        payload, theirs = orjson.loads(row.write.body), row.theirs
        is_told = "labels" in payload and "labels" in item
        if theirs is None or not row.was_looked_up or not is_told:
            return ()
        became = labels_were(theirs.fields.get("labels"), payload["labels"], item["labels"])
        if became is None or row.merged is None:
            return ()
        if became != self._labels_sent:
            self._labels_sent = became
            rules = replace(self._looking.rules, labels_merge=became == MERGED)
            self._looking.rules = rules
            self._outbox.note_learnt(connection, LABELS_SENT, became)
        if became != MERGED:
            return ()
        row.failures.append(LABELS_STAY)
        return tuple(e.name for e in row.merged.to_send if e.name in ("labels", LABELS_REMOVE))

    def _note_left(self, connection: sa.Connection, write: Write, item: Item) -> None:
        """The answer shows what the write has left: an undo compares the person with that."""
        shown = {name: self._cell(name, value) for name, value in fields_of_item(item).items()}
        left = {
            name: shown[name]
            for name, value in orjson.loads(write.body).items()
            if name in shown and shown[name] != self._cell(name, value)
        }
        if left and self._images is not None and write.prospect_id is not None:
            self._images.note_answer(connection, write.run_id, write.prospect_id, left)

    def _accept_another(self, connection: sa.Connection, row: RowInFlight, item: Item) -> None:
        """The API has changed another prospect than the one whom the row's contacts led to.

        The contacts follow only where that prospect was known to have the row's first name before
        the write; else they are disputed, and lead nowhere until a user decides.
        """
        write = row.write
        answered, expected = str(item["id"]), write.prospect_id or ""
        name = first_name(row.says.get("firstName"))
        receipt = self._receipts.of(connection, [answered]).get(answered)
        before = stored_first_name(receipt.names if receipt else None)
        if name and before and before.agrees(self._outbox.hasher.name(name)):
            self._accept(connection, row, item, Status.UPDATED)
        else:
            self._finish(connection, row, CHANGED_ANOTHER, answered)
            self._receipts.doubt(connection, answered)
            self._receipts.dispute(connection, write.aliases, expected, answered)
            self.disputed |= dict.fromkeys(write.aliases, (expected, answered))
        row.prospect_id = answered
        row.fail(_ANOTHER_CHANGED.format(answered=answered, expected=expected))

    def _forget_uncertain(
        self, connection: sa.Connection, write: Write, prospect_id: str | None
    ) -> None:
        """Something newer was accepted: what was uncertain about this person is history."""
        names = {*write.aliases, *([prospect_id] if prospect_id else [])}
        settled = {each for each in self.uncertain if each[0] in names and each[1] == PROSPECTS}
        if settled:
            self.uncertain -= settled
            self._outbox.settle_uncertain(connection, write, prospect_id)


def _is_known(write: Write, item: Item) -> bool:
    """Whether an answer shows the very prospect that was to be changed: whatever it is called, they
    were there before, so that it isn't a creation."""
    return write.prospect_id is not None and str(item.get("id")) == write.prospect_id


def _is_expected(write: Write, answered_id: Any) -> bool:
    """Whether an answer is about the prospect that the write was meant for; it is where none was
    expected, or none is named."""
    return None in (write.prospect_id, answered_id) or str(answered_id) == write.prospect_id


def _leaves_matches_alone(write: Write) -> bool:
    return orjson.loads(write.body).get("update") is False


def _is_kept(name: str, says: Item, item: Item) -> bool:
    """Whether the answer carries the contact that the row has; one that isn't shown, or that an
    earlier run's write didn't send, counts as kept."""
    return name not in item or name not in says or same_value(name, says[name], item[name])
