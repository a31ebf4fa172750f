"""One write of one input row, and how it is kept in the outbox's table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from connector.upsert.outbox.identity import Aliases
from connector.upsert.outbox.schema import writes

PROSPECTS = "prospects"
UncertainWrite = tuple[int | str, str, bytes]  # alias or prospect id, kind, content


@dataclass(frozen=True, kw_only=True)
class Write:
    """One request of one input row: the prospect (position 0) or one of its activities.

    person: rows of one run with the same number are about one person and are sent in file order.
    body: JSON; an activity's gets its `prospectId` when it is sent. row_values: the input row as
    JSON, for the rejects file. note: warnings about the row so far. stale: what was accepted last
    no longer holds, so it is sent even where it says the same. creates: as it is sent now, it
    creates somebody or does nothing, since nobody is known whom it is about. id: 0 until it is
    stored. sent_ms: by our clock; sent_server_ms: no later than the server's clock said at that
    instant, None where that isn't known.
    """

    run_id: str
    source: str
    row_number: int
    position: int
    kind: str
    person: int
    names: Aliases
    content: bytes
    body: bytes
    row_values: bytes | None = None
    note: str | None = None
    prospect_id: str | None = None
    stale: bool = False
    creates: bool = False
    id: int = 0
    idempotency_key: str | None = None
    sent_ms: int | None = None
    sent_server_ms: int | None = None


_PLAIN = [field.name for field in fields(Write) if field.name not in ("id", "names")]
COLUMNS = [
    writes.c.id,
    writes.c.email_alias,
    writes.c.phone_alias,
    writes.c.row_alias,
    *(writes.c[name] for name in _PLAIN),
]


def names_of(write: Write) -> tuple[int | str, ...]:
    """Whatever tells whose write it is: its aliases, and its prospect's id where that is known."""
    known = () if write.prospect_id is None else (write.prospect_id,)
    return (*write.names.present(), *known)


def uncertain_names(write: Write) -> set[UncertainWrite]:
    """The entries that stand for `write` among those of unknown fate."""
    return {(name, write.kind, write.content) for name in names_of(write)}


def to_record(write: Write) -> dict[str, Any]:
    """Its columns, all but what only storage knows."""
    return {
        **{name: getattr(write, name) for name in _PLAIN},
        "email_alias": write.names.email,
        "phone_alias": write.names.phone,
        "row_alias": write.names.row,
    }


def from_record(row: Sequence[Any]) -> Write:
    """The write in a row of `COLUMNS`."""
    id_, email, phone, other, *plain = row
    values: dict[str, Any] = dict(zip(_PLAIN, plain, strict=True))
    values["creates"] = bool(values["creates"])  # null before version 0.2
    values["content"], values["body"] = bytes(values["content"]), bytes(values["body"] or b"")
    return Write(id=id_, names=Aliases(email, phone, other), **values)


def by_row(ordered: Iterable[Write]) -> Iterator[list[Write]]:
    """Writes in file order, each row's together."""
    row: list[Write] = []
    for write in ordered:
        if row and row[0].row_number != write.row_number:
            yield row
            row = []
        row.append(write)
    if row:
        yield row
