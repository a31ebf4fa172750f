"""From input rows to staged rows: each is checked, hashed and put aside, or rejected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import orjson

from connector.upsert.identity import Aliases, Hasher
from connector.upsert.inputs.rows import InputRow
from connector.upsert.staging import Staging
from connector.upsert.validation import Activity, Reject, ValidRow

Check = Callable[[InputRow], ValidRow | Reject]
_BATCH = 5_000
_NO_JSON = "a value of this row can't be written as JSON; change it to text or a plain number"
_Staged = tuple[int, Aliases, bytes, bytes, bytes | None, bytes, str | None]


def stage(
    rows: Iterable[InputRow],
    check: Check,
    staging: Staging,
    *,
    hasher: Hasher,
    on_reject: Callable[[Reject], None],
    on_progress: Callable[[int], None],
) -> int:
    """Check every row of the input; how many there were.

    on_progress: gets the number of rows read so far, now and then.
    """
    remaining, read = iter(rows), 0
    while batch := list(islice(remaining, _BATCH)):
        staging.add(_staged(batch, check, hasher, on_reject))
        read += len(batch)
        on_progress(read)
    staging.join()
    return read


def _staged(
    batch: list[InputRow], check: Check, hasher: Hasher, on_reject: Callable[[Reject], None]
) -> Iterator[_Staged]:
    for row in batch:
        checked = check(row)
        if isinstance(checked, ValidRow):
            try:
                yield _stage_one(row, checked, hasher)
                continue
            except TypeError:
                checked = Reject(row.row_number, row.values, None, _NO_JSON)
        on_reject(checked)


def _stage_one(row: InputRow, valid: ValidRow, hasher: Hasher) -> _Staged:
    contacts = Aliases(
        email=None if valid.email is None else hasher.alias("email", valid.email),
        phone=None if valid.phone is None else hasher.alias("phone", valid.phone),
    )
    return (
        valid.row_number,
        contacts,
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
    return orjson.dumps(values, default=str, option=orjson.OPT_NON_STR_KEYS)
