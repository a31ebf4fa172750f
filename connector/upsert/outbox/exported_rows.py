"""Rows of a pulled table, or of an export of one: whom they are about, and which version they show.

Such a row names its prospect (`id`) and the version of it that was exported (`updated_at`). As long
as the copy still has that version, the row is compared with it: a cell that differs was changed in
the export. Cells as the pull landed them are HiringCenter's own, so they are neither checked nor
sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, time
from itertools import islice
from typing import Any, NamedTuple, Self

import orjson

from connector.upsert.outbox.entries import VERSION, Entries, Entry, RowMemory, packed, unpacked
from connector.upsert.outbox.evidence import Pulled, PulledProspect, fields_of_item
from connector.upsert.outbox.matching import Hasher, is_nothing, same_value
from connector.upsert.outbox.merge import Remembered
from connector.upsert.outbox.outbox import Write
from connector.upsert.rows.cells import InputRow, is_empty, is_error_word, text_of
from connector.upsert.rows.column_mapping import ColumnPlan
from connector.upsert.rows.row_checks import Reject, Validator, ValidRow
from connector.upsert.rows.write_schema import MANNERS

_BATCH_ROWS = 5_000
# a time as a number: what is larger than the first counts as many units per millisecond
_UNITS_PER_MS = ((10**17, 10**6), (10**14, 10**3), (10**11, 1))
_NOT_PULLED = (
    "prospect {id} isn't in the last pull, so what the row was exported as isn't known. Pull "
    "first, and export again; for another account's export, ignore column {column!r} in a mapping "
    "file"
)
_DELETED = "this person was deleted in HiringCenter, so nothing of the row is sent"
_NO_CONTACT = (
    "this person has neither email nor phone, by which HiringCenter finds whom to change, so "
    "nothing of the row is sent"
)


class Exported(NamedTuple):
    """What a row of a pulled table was exported as.

    updated_at_ms: its version; None if it doesn't say. was: field → fingerprint of what the version
    has, for fields that the row says otherwise; empty where the copy no longer has that version.
    added: fields that the version doesn't have, so that they were added to the export.
    reason: why nothing of the row is sent, whatever it says.
    """

    updated_at_ms: int | None
    was: Mapping[str, bytes] = {}
    added: tuple[str, ...] = ()
    reason: str | None = None

    def to_bytes(self) -> bytes:
        return orjson.dumps([*self], default=bytes.hex)

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        updated_at_ms, *_, was, added, reason = orjson.loads(stored)  # once there was one more
        cells = {name: bytes.fromhex(cell) for name, cell in was.items()}
        return cls(updated_at_ms, cells, tuple(added), reason)


class ExportedRows:
    """The rows of an input whose columns are `plan.pulled`, to be iterated over once; `check` shows
    for each what may be sent of it."""

    def __init__(
        self,
        rows: Iterable[InputRow],
        plan: ColumnPlan,
        validator: Validator,
        pulled: Pulled,
        hasher: Hasher,
    ) -> None:
        assert plan.pulled is not None
        self._rows, self._columns = rows, plan.pulled
        self._validator, self._pulled, self._hasher = validator, pulled, hasher
        self._fields = {column: name for column, name in plan.fields.items() if "." not in name}
        # constants, and activities that are created with a row
        self._has_more = bool(plan.constants) or len(self._fields) < len(plan.fields)
        self._known: dict[int, tuple[str, PulledProspect | None]] = {}  # of rows to be checked

    def __iter__(self) -> Iterator[InputRow]:
        remaining = iter(self._rows)
        while batch := list(islice(remaining, _BATCH_ROWS)):
            ids = {row.row_number: _text(row.values.get(self._columns.id)) for row in batch}
            found = self._pulled.by_id({id_ for id_ in ids.values() if id_}, with_fields=True)
            self._known |= {number: (id_, found.get(id_)) for number, id_ in ids.items() if id_}
            yield from batch

    def check(self, row: InputRow) -> ValidRow | Reject:
        """What may be sent of `row`, or why nothing may. One without an id is like any other row,
        and may be a new person's."""
        id_, copied = self._known.pop(row.row_number, ("", None))
        if not id_ or row.problem is not None:
            return self._validator.check(row)
        if copied is None:
            column = self._columns.id
            reason = _NOT_PULLED.format(id=id_, column=column)
            return Reject(row.row_number, row.values, column, reason)
        theirs = fields_of_item(copied.fields, of_copy=True)
        is_deleted = copied.deleted_at_ms is not None
        if is_deleted or not is_empty(row.values.get(self._columns.deleted_at)):
            return self._left_alone(row, id_, _DELETED)
        if all(is_nothing(theirs.get(name, "?")) for name in ("email", "phone")):
            return self._left_alone(row, id_, _NO_CONTACT)
        valid = self._checked(row, theirs)
        if isinstance(valid, Reject):
            return valid
        email, phone = self._validator.identities({**theirs, **valid.payload})
        exported = self._exported(row, copied, theirs, valid.payload)
        return valid._replace(
            email=email, phone=phone, prospect_id=id_, exported=exported.to_bytes()
        )

    def _checked(self, row: InputRow, theirs: Mapping[str, Any]) -> ValidRow | Reject:
        pulled = self._as_pulled(row, theirs)
        if self._has_more or len(pulled) < len(self._fields):
            return self._validator.check(row, pulled)
        # of a million rows, nearly all are as they were exported
        says = {self._fields[column]: value for column, value in pulled.items()}
        payload = {name: value for name, value in says.items() if value is not None}
        return self._validator.unchecked(row, payload)

    def _as_pulled(self, row: InputRow, theirs: Mapping[str, Any]) -> dict[str, Any]:
        """column → value of the cells that show what HiringCenter has; None for empty ones."""
        found = {}
        for column, name in self._fields.items():
            if name in theirs and _reads_as(name, row.values.get(column), theirs[name]):
                found[column] = None if is_nothing(theirs[name]) else theirs[name]
        return found

    def _left_alone(self, row: InputRow, id_: str, reason: str) -> ValidRow:
        exported = Exported(None, reason=reason)
        return ValidRow(
            row.row_number, {}, None, None, prospect_id=id_, exported=exported.to_bytes()
        )

    def _exported(
        self,
        row: InputRow,
        copied: PulledProspect,
        theirs: Mapping[str, Any],
        says: Mapping[str, Any],
    ) -> Exported:
        version_ms = _time_ms(row.values.get(self._columns.updated_at))
        added = tuple(name for name in says if name not in theirs and name not in MANNERS)
        if version_ms is None or version_ms != copied.updated_at_ms:
            return Exported(version_ms, added=added)
        was = {
            name: self._hasher.cell(name, theirs[name])
            for name, value in says.items()
            if name in theirs and name not in MANNERS and not same_value(name, value, theirs[name])
        }
        return Exported(version_ms, was=was, added=added)


def is_version_lost(entries: Entries, write: Write, memory: RowMemory) -> bool:
    """Whether a row of a pulled table names no version that is known: cells that differ may be what
    was edited in the export, or what was edited in HiringCenter since. memory: of the row."""
    if write.exported is None:
        return False
    exported = Exported.from_bytes(write.exported)
    before, _ = unpacked(memory.entry.cells) if memory.entry else ({}, {})
    mark = frozenset((entries.hasher.cell(VERSION, exported.updated_at_ms),))
    return not exported.was and before.get(VERSION) != mark


def as_exported(entries: Entries, write: Write, memory: RowMemory) -> RowMemory:
    """What is remembered for a row of a pulled table: its entry, while that is of the same
    version; else what it was exported as, as if this source had settled that.

    Where the copy no longer has the version, what the row says now stands for it: nothing that
    differs is sent, and all of it is reported.
    """
    if write.exported is None:
        return memory
    exported, says, cell = Exported.from_bytes(write.exported), memory.says, entries.hasher.cell
    before, shown = unpacked(memory.entry.cells) if memory.entry else ({}, {})
    mark = frozenset((cell(VERSION, exported.updated_at_ms),))
    is_same = before.get(VERSION) == mark
    base: dict[str, frozenset[bytes]] = {VERSION: mark}
    for name, value in says.items():
        if name in before and (is_same or name in exported.added):
            base[name] = before[name]
        elif name not in exported.added and name not in MANNERS:
            base[name] = frozenset((exported.was.get(name) or cell(name, value),))
    contacts = entries.contacts(write)
    names = entries.hasher.entry_names(says.get("firstName"), says.get("lastName"))
    new = Entry(contacts[0], 0, write.prospect_id, 1, names, None, b"", 0)
    entry = (memory.entry or new)._replace(cells=packed(base, shown))
    remembered = Remembered(base, shown, memory.remembered.others)
    return replace(memory, remembered=remembered, entry=entry)


def _text(value: Any) -> str:
    """A cell as plain text; "" where it has none."""
    try:
        return "" if is_empty(value) else text_of(value).strip()
    except ValueError:
        return ""


def _reads_as(name: str, cell: Any, value: Any) -> bool:
    """Whether a cell shows `value`, as programs write it that know nothing of fields."""
    if cell == value and type(cell) is str:
        return True
    if is_nothing(value) or is_empty(cell):
        return is_nothing(value) and (is_empty(cell) or cell in ([], "[]"))
    if isinstance(value, str):
        # text such as `=1+1` becomes a formula in a workbook, which shows an error or nothing
        is_formula = (
            value.lstrip().startswith("=") and isinstance(cell, str) and is_error_word(cell)
        )
        return is_formula or _one_line_end(_text(cell)) == _one_line_end(value.strip())
    if isinstance(cell, str) and isinstance(value, list | dict):
        with suppress(ValueError, RecursionError):
            cell = orjson.loads(cell)
    return bool(cell == value) or (isinstance(cell, list) and same_value(name, cell, value))


def _one_line_end(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _time_ms(value: Any) -> int | None:
    """UTC epoch ms of a cell of `updated_at`, in any form that exports write; a time without an
    offset is UTC. None where it isn't a time."""
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    elif not isinstance(value, datetime):
        text = _text(value).removesuffix(" UTC")
        if text.removesuffix(".0").isdecimal():
            count = int(text.removesuffix(".0"))
            per_ms = next((per_ms for least, per_ms in _UNITS_PER_MS if count >= least), None)
            return None if per_ms is None else round(count / per_ms)
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            return None
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    moment: datetime = value
    return round(moment.timestamp() * 1000)
