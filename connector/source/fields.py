"""The fields that the API contract names, and values as columns of some type hold them. Pure.

Types are dlt's, and the contract's columns have theirs from the first pull on. Every field but `id`
may be missing or null in a record. Source: the vendor's reference; fields that are not here land
too, typed by their first value.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType, NoneType
from typing import Any, TypeGuard

import orjson
import pyarrow as pa

from connector.api.envelopes import KeptAsText

HASH_COLUMN = "_hc_hash"
DELETED_COLUMN = "_hc_deleted_at"
UNLISTED_COLUMN = "_hc_unlisted_at"
SEEN_COLUMN = "_hc_seen_at"
MORE_COLUMN = "_hc_more"
FIELD_HINT = "x-hc-field"

# Unix milliseconds wherever they appear, also on a resource whose reference doesn't name them
MS_FIELDS = frozenset({"createdAt", "updatedAt", "dueAt", "completedAt", "meetingDate"})

_NAMES = {
    "prospects": (
        "id firstName lastName email phone currentStage currentStageId labels title company "
        "createdAt updatedAt"
    ),
    "notes": (
        "id prospectId userId body createdAt createdByApi createdByApiKeyId createdByApiKeyName "
        "mentions pin fileUrl"
    ),
    "tasks": (
        "id prospectId task assignedTo assignedBy createdBy createdAt updatedAt dueAt completedAt "
        "createdByApi createdByApiKeyId createdByApiKeyName"
    ),
    "meetings": (
        "id prospectId meetingDate timeZone meetingType ownerId location notes createdBy "
        "createdByApi createdByApiKeyId createdByApiKeyName createdAt updatedAt"
    ),
}
_NOT_TEXT = {
    **dict.fromkeys(MS_FIELDS, "timestamp"),
    "labels": "json",
    "mentions": "json",
    "createdByApi": "bool",
    "pin": "bool",
}

CONTRACT: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        resource: MappingProxyType({name: _NOT_TEXT.get(name, "text") for name in names.split()})
        for resource, names in _NAMES.items()
    }
)
"""Resource → API name of each field → dlt data type."""


# Fields of the contract that hold the id of another record, or of a user
ID_FIELDS = frozenset(
    {
        "currentStageId", "prospectId", "userId", "ownerId", "createdByApiKeyId",
        "assignedTo", "assignedBy", "createdBy",
    }
)  # fmt: skip


def record_id(item: Any) -> str | None:
    """The id of `item` as text, the key of its row; None if it has no usable one.

    Integers are ids too (an id is a name, not a number: 7 and "7" are one row).
    """
    value = item.get("id") if isinstance(item, dict) else None
    if type(value) is str:
        return value or None
    return str(value) if type(value) is int else None


def with_text_ids(records: list[dict[str, Any]], fields: Iterable[str]) -> None:
    """Replace, in `records`, those whose `fields` have integers by ones that have them as text:
    an id joins with the `id` of its row, which is text."""
    for field in fields:
        if int in set(map(type, [record.get(field) for record in records])):
            for at, record in enumerate(records):
                if type(record.get(field)) is int:
                    records[at] = {**record, field: str(record[field])}


def split_malformed(items: Iterable[Any]) -> tuple[list[dict[str, Any]], list[Any]]:
    """Records with an id, and the malformed ones, each in order; nothing is dropped."""
    records: list[dict[str, Any]] = []
    malformed: list[Any] = []
    for item in items:
        if record_id(item) is None:
            malformed.append(item)
        else:
            records.append(item)
    return records, malformed


# --- values ---------------------------------------------------------------------------------------

INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)
EXACT_FLOAT_MAX = 2**53  # up to here every integer is a double
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_MS = -62_135_596_800_000  # 0001-01-01T00:00:00.000Z
LAST_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Arrow infers types, and then silently rounds 1.5 in an integer column: so each column has its type
_ARROW_TYPES = {
    "text": pa.string(),
    "json": pa.string(),
    "bigint": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),  # DuckDB refuses what dlt makes of "ms"
    "binary": pa.binary(),
    "date": pa.date32(),
}
_MS = pa.timestamp("ms", tz="UTC")
_DEPTH_MAX = 100  # orjson writes 254 levels, and dlt writes with orjson
_TYPES = {str: "text", bool: "bool", int: "bigint", float: "double", list: "json", dict: "json"}


def to_datetime(ms: int) -> datetime:
    """Unix milliseconds as UTC, exactly. ms: FIRST_MS to LAST_MS."""
    return EPOCH + timedelta(0, ms // 1000, ms % 1000 * 1000)  # keywords take twice the time


def since_ms(text: str) -> int:
    """A date, a time (UTC unless it says otherwise) or Unix milliseconds, in milliseconds.

    Raises:
        ValueError: it is none of these, or not within the calendar.
    """
    if text.isdecimal() and len(text) > 8:  # shorter ones are dates: 20260301
        ms = int(text)
    else:
        moment = datetime.fromisoformat(text)
        ms = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    if not is_ms(ms):
        raise ValueError(f"{text[:30]} isn't within the calendar")
    return ms


def sql_time(client: Any, moment: Any) -> Any:
    """A time in UTC as a parameter of dlt's SQL client: SQLite keeps times as text without a zone,
    as SQLAlchemy writes it."""
    if getattr(client, "dialect_name", None) != "sqlite" or not isinstance(moment, datetime):
        return moment
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def as_ms(moment: Any) -> int | None:
    """UTC epoch ms of a time as a destination returns it: some keep none of the zone, which is
    UTC, and some text."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if isinstance(moment, datetime):
        known = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return round(known.timestamp() * 1000)
    return None if moment is None else int(moment)


def is_ms(value: Any) -> TypeGuard[int]:
    """Whether `value` is a whole number of Unix milliseconds within the calendar."""
    return type(value) is int and FIRST_MS <= value <= LAST_MS


def natural_type(value: Any, *, is_time: bool = False) -> str:
    """The dlt data type that holds `value`, a non-null JSON value.

    is_time: its field is known to be in Unix milliseconds.
    """
    return "timestamp" if is_time and is_ms(value) else _TYPES[type(value)]


def fitted(value: Any, data_type: str, *, is_time: bool) -> Any:
    """`value` as a column of `data_type` holds it; None where it doesn't fit exactly.

    An integer fits a double as long as the double is that integer; a float never fits an
    integer column, not even 2.0.
    """
    if data_type == "double" and type(value) is int:
        return float(value) if abs(value) <= EXACT_FLOAT_MAX else None
    return value if natural_type(value, is_time=is_time) == data_type else None


def all_fit(values: Sequence[Any], data_type: str, *, is_time: bool) -> bool:
    """Whether a column of `data_type` holds all `values`, nulls included, as they are.

    False doesn't mean that one of them doesn't fit: look at each with `fitted`.
    """
    kinds = set(map(type, values)) - {NoneType}
    if int in kinds and is_time:
        times = [value for value in values if value is not None]
        is_exact = data_type == "timestamp" and kinds == {int}
        return is_exact and is_ms(min(times)) and is_ms(max(times))
    return all(_TYPES[kind] == data_type for kind in kinds)


def arrow_table(
    cells: Mapping[str, Sequence[Any]], columns: Mapping[str, Mapping[str, Any]], *, rows: int
) -> pa.Table:
    """A table of every column of `columns` (dlt column schemas), of exactly its type.

    cells: column → the values of all rows; columns that it leaves out are null. Times are datetimes
    or Unix milliseconds.

    Raises:
        pyarrow.ArrowInvalid, pyarrow.ArrowTypeError: a value that isn't of its column's type.
        KeyError: a column of a type that rows of this connector never have.
    """
    arrays, fields = [], []
    for name, column in columns.items():
        arrow_type = _ARROW_TYPES[column["data_type"]]
        values = cells.get(name)
        if values is None:
            array = pa.nulls(rows, arrow_type)
        elif column["data_type"] == "json":
            array = pa.array([*map(_as_json, values)], arrow_type)
        elif column["data_type"] == "timestamp":
            is_ms = any(type(value) is int for value in values)
            array = (
                pa.array(values, _MS).cast(arrow_type) if is_ms else pa.array(values, arrow_type)
            )
        else:
            array = pa.array(values, arrow_type)
        arrays.append(array)
        fields.append(pa.field(name, arrow_type, nullable=column.get("nullable", True)))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _as_json(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()


def is_plain(value: Any) -> bool:
    """Whether 64 bits hold every number in `value`."""
    kind = type(value)
    if kind is int:
        return bool(INT64_MIN <= value <= INT64_MAX)
    if kind is float:
        return math.isfinite(value)
    if kind is list or kind is dict:
        for item in value if kind is list else value.values():
            if type(item) is not str and not is_plain(item):
                return False
    return True


def holdable(value: Any, warnings: Counter[str], depth: int = 0) -> Any:
    """`value` with everything replaced that a destination (or dlt's files) can't hold.

    NUL and lone surrogates become U+FFFD; numbers over 64 bits and infinities become text, and
    so does what is nested too deep. Counts each in `warnings`.
    """
    if isinstance(value, KeptAsText):
        warnings[value.why] += 1
        return _holdable_text(str(value), warnings)
    if isinstance(value, str):
        return _holdable_text(value, warnings)
    if isinstance(value, dict | list):
        if depth >= _DEPTH_MAX:
            warnings["nested too deep, kept as text"] += 1
            return _holdable_text(_as_text(value), warnings)
        return _holdable_container(value, warnings, depth)
    if not is_plain(value):
        warnings["number over 64 bits kept as text"] += 1
        return json.dumps(value)
    return value


def _holdable_container(value: Any, warnings: Counter[str], depth: int) -> Any:
    if isinstance(value, list):
        return [holdable(item, warnings, depth + 1) for item in value]
    held: dict[str, Any] = {}
    for name, item in value.items():
        held_name = _holdable_text(name, warnings)
        while held_name in held:  # two names that differ in what was replaced only
            held_name += REPLACEMENT
        held[held_name] = holdable(item, warnings, depth + 1)
    return held


def _holdable_text(text: str, warnings: Counter[str]) -> str:
    if "\0" in text:
        warnings["NUL replaced by U+FFFD"] += 1
        text = text.replace("\0", REPLACEMENT)
    if not text.isascii() and _has_surrogate(text):
        warnings["lone surrogate replaced by U+FFFD"] += 1
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _as_text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "(nested too deep to be kept)"
