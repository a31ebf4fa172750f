"""From input rows to staged rows: each is checked, hashed and put aside, or rejected."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import orjson

from connector.upsert.outbox.matching import Hasher
from connector.upsert.outbox.receipts import Found
from connector.upsert.outbox.staging import NewRow, Staging
from connector.upsert.rows.cells import InputRow
from connector.upsert.rows.row_checks import Activity, Reject, ValidRow

Check = Callable[[InputRow], ValidRow | Reject]
_BATCH = 5_000
_NO_JSON = "a value of this row can't be written as JSON; change it to text or a plain number"
Find = Callable[[Collection[int]], Mapping[int, Found]]


def stage(
    rows: Iterable[InputRow],
    check: Check,
    staging: Staging,
    *,
    hasher: Hasher,
    find: Find,
    on_reject: Callable[[Reject], None],
    on_progress: Callable[[int], None],
) -> int:
    """Check every row of the input; how many there were.

    find: where aliases lead, as the ledger knows. on_progress: gets the number of rows read so
    far, now and then.
    """
    remaining, read = iter(rows), 0
    while batch := list(islice(remaining, _BATCH)):
        new = list(_checked(batch, check, hasher, on_reject))
        found = _find(new, find)
        staging.add(_known(row, found) for row in new)
        read += len(batch)
        on_progress(read)
    staging.join()
    return read


def _checked(
    batch: list[InputRow], check: Check, hasher: Hasher, on_reject: Callable[[Reject], None]
) -> Iterator[NewRow]:
    for row in batch:
        checked = check(row)
        if isinstance(checked, ValidRow):
            try:
                yield _stage_one(row, checked, hasher)
                continue
            except TypeError:
                checked = Reject(row.row_number, row.values, None, _NO_JSON)
        on_reject(checked)


def _find(rows: list[NewRow], find: Find) -> dict[int, Found]:
    """Where the rows' aliases lead. One is enough for a row that says what was accepted last: it
    is sent nowhere; of the others, both are looked up."""
    first = {row.email if row.email is not None else row.phone for row in rows}
    found = dict(find(_numbers(first)))
    second = {
        row.phone
        for row in rows
        if not ((leads_to := found.get(row.email or 0)) and leads_to.is_last(row.content))
    }
    found.update(find(_numbers(second)))
    return found


def _numbers(aliases: set[int | None]) -> set[int]:
    return {alias for alias in aliases if alias is not None}


def _known(row: NewRow, found: Mapping[int, Found]) -> NewRow:
    """`row` with the prospect that its contacts lead to."""
    one, other = found.get(row.email or 0), found.get(row.phone or 0)
    leads_to = one or other
    if leads_to is None:
        return row
    prospect = hash(leads_to.prospect_id)  # for this process alone
    agree = one is None or other is None or one.prospect_id == other.prospect_id
    if not (agree and leads_to.is_last(row.content)):
        return row._replace(prospect=prospect)
    return NewRow(*row[:8], prospect, leads_to.prospect_id, *leads_to[3:5])


def _stage_one(row: InputRow, valid: ValidRow, hasher: Hasher) -> NewRow:
    return NewRow(
        valid.row_number,
        None if valid.email is None else hasher.alias("email", valid.email),
        None if valid.phone is None else hasher.alias("phone", valid.phone),
        hasher.content(valid.payload),
        orjson.dumps(valid.payload),
        _activities(valid.activities),
        values_as_json(row.values),
        "; ".join(valid.warnings) or None,
    )


def _activities(activities: list[Activity]) -> bytes | None:
    if not activities:
        return None
    return orjson.dumps([[activity.kind, activity.payload] for activity in activities])


def values_of(row_values: bytes | None) -> dict[str, Any]:
    """An input row as it was kept."""
    values: dict[str, Any] = orjson.loads(row_values or b"{}")
    return values


def values_as_json(values: dict[str, Any]) -> bytes:
    """An input row for safekeeping; what JSON doesn't know is kept as its text."""
    return orjson.dumps(values, default=str)
