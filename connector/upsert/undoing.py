"""What an undo puts back, and what it can't: what one run has changed, as the outbox knows it.

People whom the run has updated get back what they were, as far as nobody has edited them since:
each is one guarded write (see `looking.Guard`). All else is listed, row by row: whom it created,
what it added, and what was never read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from connector.upsert.looking import CHANGED_ANOTHER, Guard
from connector.upsert.outbox.before_images import BeforeImage, BeforeImages
from connector.upsert.outbox.outbox import PROSPECTS, Outbox, Write, WriteState
from connector.upsert.outbox.outbox_schema import results, writes
from connector.upsert.outbox.receipts import RowResult, Status

_CREATED = (
    "prospect {id} was created, which the API can't take back: delete them in HiringCenter if they "
    "are to go"
)
_ADDED = "prospect {id} keeps the {kind} that was added: delete it in HiringCenter if it is to go"
_LABELS = "prospect {id} keeps the labels that were added: HiringCenter only adds labels"
_MAYBE_CREATED = (
    "a prospect may have been created: whether it was can't be known any more. Look in HiringCenter"
)
_MAYBE_ADDED = "prospect {id} may have got a {kind}: whether they did can't be known any more"
_UNREAD = "prospect {id} keeps {fields}: what was there before can't be read through the API"
_NOT_READ = "prospect {id} stays as they are: they weren't read before they were changed"
_OLDER = (
    "prospect {id} stays as they are: what they were is known only from a copy, as of {when}; "
    "--force puts that back"
)
_AS_OF = "as of {when}"
_ALREADY = "prospect {id}: already undone by run {by}"
_CHANGED = (Status.CREATED.value, Status.UPDATED.value, CHANGED_ANOTHER)


class Change(NamedTuple):
    """One write of a run that has changed something, or may have. outcome: None where its answer is
    still missing, or its fate can't be known. prospect_id: None where HiringCenter named none."""

    row_number: int
    kind: str
    prospect_id: str | None
    outcome: str | None


def changes_of(connection: sa.Connection, outbox: Outbox, run_id: str) -> list[Change]:
    """What a run has changed, in file order."""
    own = writes.c
    open_states = (WriteState.SENDING.value, WriteState.UNCERTAIN.value)
    # what was uncertain stays so for an undo, also once something newer was accepted
    was_uncertain = own.outcome == WriteState.UNCERTAIN.value
    is_open = own.state.in_(open_states) | was_uncertain
    outcome = sa.case((is_open, sa.null()), else_=own.outcome)
    query = (
        sa.select(own.row_number, own.kind, own.prospect_id, outcome)
        .where(own.scope == outbox.scope, own.run_id == run_id)
        .where(is_open | own.outcome.in_(_CHANGED))
        .order_by(own.row_number, own.position)
    )
    return list(map(Change._make, connection.execute(query)))


@dataclass
class UndoPlan:
    """writes: one for each person to whom something is put back. results: the outcome of the other
    rows. listed: what stays as it is, of all rows. already: runs that have undone some of it."""

    writes: list[Write] = field(default_factory=list)
    results: list[RowResult] = field(default_factory=list)
    listed: list[RowResult] = field(default_factory=list)
    already: set[str] = field(default_factory=set)


def plan_undo(
    connection: sa.Connection,
    outbox: Outbox,
    images: BeforeImages,
    *,
    undoes: str,
    run_id: str,
    force: bool,
    labels_merge: bool = False,
) -> UndoPlan:
    """How `run_id` is to undo the run `undoes`. force: people who are known only from an older
    copy, and those whom an earlier undo has left alone, too. labels_merge: HiringCenter is known to
    add labels only.

    Raises:
        UsageError: what it changed was sealed on another machine.
    """
    changes = changes_of(connection, outbox, undoes)
    kept = {id_: (image, by) for id_, image, by in images.of_run(connection, undoes)}
    planner = _UndoPlanner(outbox, undoes, run_id, force=force, labels_merge=labels_merge)
    planner.left_alone = _left_alone(connection, {by for _, by in kept.values() if by})
    for row, group in _by_row(changes).items():
        planner.add(row, group, kept)
    return planner.plan


def _left_alone(connection: sa.Connection, run_ids: Collection[str]) -> dict[str, RowResult]:
    """Prospect id → the outcome of those whom earlier undos have left alone: a run that was killed
    has told nobody."""
    own, bad = results.c, (Status.REJECTED.value, Status.FAILED.value)
    query = sa.select(own.row_number, own.status, own.prospect_id, own.message).where(
        own.run_id.in_(list(run_ids)), own.status.in_(bad), own.prospect_id.is_not(None)
    )
    found = connection.execute(query) if run_ids else ()
    return {each[2]: RowResult(each[0], Status(each[1]), each[2], each[3]) for each in found}


def _by_row(changes: Sequence[Change]) -> dict[int, list[Change]]:
    """The changes that each row answers for: a person's are all their first row's."""
    first: dict[str, int] = {}
    rows: dict[int, list[Change]] = {}
    for each in changes:
        own = each.row_number
        if each.kind == PROSPECTS and each.prospect_id is not None:
            own = first.setdefault(each.prospect_id, own)
        rows.setdefault(own, []).append(each)
    return rows


class _UndoPlanner:
    def __init__(
        self, outbox: Outbox, undoes: str, run_id: str, *, force: bool, labels_merge: bool
    ) -> None:
        self._hasher, self._undoes, self._run_id = outbox.hasher, undoes, run_id
        self._force, self._labels_merge = force, labels_merge
        self.left_alone: dict[str, RowResult] = {}
        self.plan = UndoPlan()

    def add(
        self,
        row: int,
        changes: Iterable[Change],
        kept: Mapping[str, tuple[BeforeImage, str | None]],
    ) -> None:
        """Plan one row."""
        people = [each for each in changes if each.kind == PROSPECTS]
        is_created = any(each.outcome == Status.CREATED for each in people)
        stays = [
            (_ADDED if each.outcome else _MAYBE_ADDED).format(
                id=each.prospect_id, kind=each.kind.removesuffix("s")
            )
            for each in changes
            if each.kind != PROSPECTS
        ]
        id_ = people[0].prospect_id if people else None
        if is_created:
            stays.insert(0, _CREATED.format(id=id_ or "that wasn't named"))
        elif people and id_ is None:
            stays.insert(0, _MAYBE_CREATED)
        elif id_ is not None:
            image, by = kept.get(id_, (None, None))
            if by is not None and not self._force:
                self.plan.already.add(by)
                done = RowResult(row, Status.UNCHANGED, id_, _ALREADY.format(id=id_, by=by))
                self.plan.results.append(self.left_alone.get(id_, done))
                return
            if self._put_back(row, id_, image, stays):
                return
        self._list(row, changes, stays)

    def _put_back(self, row: int, id_: str, image: BeforeImage | None, stays: list[str]) -> bool:
        """Plan the write that puts a person back; False where nothing can be, which `stays` says
        then."""
        if image is None:
            stays.insert(0, _NOT_READ.format(id=id_))
            return False
        if image.unread:
            stays.insert(0, _UNREAD.format(id=id_, fields=", ".join(image.unread)))
        before: dict[str, Any] = dict(image.before)
        if self._labels_merge and before.pop("labels", None) is not None:
            stays.insert(0, _LABELS.format(id=id_))
        if not before:
            return False
        when = None if image.read_ms is None else _utc(image.read_ms)
        if when is not None and not self._force:
            stays.insert(0, _OLDER.format(id=id_, when=when))
            return False
        if stays:
            self.plan.listed.append(RowResult(row, Status.UPDATED, id_, "; ".join(stays)))
        notes = [*stays, *([_AS_OF.format(when=when)] if when else [])]
        body = dict(before)
        if image.contact is not None:
            body.setdefault(*image.contact)
        guard = Guard({name: image.left.get(name) for name in before}, self._undoes)
        self.plan.writes.append(
            Write(
                self._run_id,
                f"undo {self._undoes}",
                row,
                0,
                PROSPECTS,
                self._hasher.alias("prospect", id_),
                None,
                None,
                None,
                self._hasher.content(body),
                orjson.dumps(body),
                note="; ".join(notes) or None,
                prospect_id=id_,
                guard=guard.to_bytes(),
            )
        )
        return True

    def _list(self, row: int, changes: Iterable[Change], stays: Sequence[str]) -> None:
        id_ = next(iter(changes)).prospect_id
        result = RowResult(row, Status.REJECTED, id_, "; ".join(stays))
        self.plan.results.append(result)
        self.plan.listed.append(result)


def _utc(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
