"""Records → rows ready for dlt: named columns, values that fit their type, and a content hash.

What doesn't fit its column lands beside it, in `<column>__v_<type>`; nothing is coerced in
silence. A row leaves out what is null, as dlt itself does; an upsert writes those as null.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from dlt.common.json import custom_pua_decode
from dlt.common.schema.typing import TColumnSchema

from connector.source.columns import DELETED_COLUMN, HASH_COLUMN, Column, Columns
from connector.source.privacy import Privacy
from connector.source.records import record_id
from connector.source.values import (
    REPLACEMENT,
    fitted,
    holdable,
    is_ms,
    is_plain,
    natural_type,
    to_datetime,
)

__all__ = ["DELETED_COLUMN", "HASH_COLUMN", "RowMaker"]

_FORMAT = b"hc-row-1"  # change it when unchanged records make other rows: all are written again
_STRICT = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_SUBCLASS  # refuses KeptAsText
_DLT_MARKS = b"\xef\x80"  # the start of U+F026 to U+F02E, which mark types in dlt's own files


class _NotPlain(Exception):
    """A value of the record has to be replaced first."""


class RowMaker:
    """Makes the rows of one resource. Not thread-safe.

    known_columns: the table's columns so far, by name: dlt data type or dlt column schema.
    Schemas from this class remember which field filled them (`x-hc-field`), so that a name
    collision is decided the same way by every run. exclude, hashed: fields by column or API name
    that are left out, or replaced by a keyed hash. hash_key: secret, needed for `hashed`.
    for_dlts_files: the rows travel as dicts through dlt's own files, which read a meaning into
    some leading characters; Arrow tables don't.
    warnings: what was replaced or kept beside, with counts; field names, never values.

    Raises:
        ConfigurationError: `hashed` without `hash_key`, or `id` among the fields.
    """

    def __init__(
        self,
        resource: str,
        known_columns: Mapping[str, str | TColumnSchema],
        *,
        exclude: Iterable[str] = (),
        hashed: Iterable[str] = (),
        hash_key: bytes = b"",
        for_dlts_files: bool = False,
    ) -> None:
        self._for_dlts_files = for_dlts_files
        self.warnings: Counter[str] = Counter()
        self._privacy = Privacy(resource, exclude, hashed, hash_key)
        self._columns = Columns(resource, known_columns, self._privacy, self.warnings)
        self._hash = hashlib.blake2b(
            digest_size=16, person=_FORMAT, salt=self._privacy.digest, usedforsecurity=False
        )

    @property
    def columns(self) -> dict[str, TColumnSchema]:
        """Hints for dlt: every column of the contract, and every one filled so far."""
        return self._columns.schemas

    def rows(self, records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """One row per id, in the order of the ids' first appearance; an id's last record wins.

        Raises:
            ValueError: a record without a usable id (`records.split` sorts those out).
        """
        rows = {}
        for record in records:
            row = self._row(record)
            rows[row["id"]] = row
        return list(rows.values())

    def _row(self, record: dict[str, Any]) -> dict[str, Any]:
        record = self._privacy.applied(record)
        try:
            content = orjson.dumps(record, option=_STRICT)
            if b"\\u0000" in content or (self._for_dlts_files and _DLT_MARKS in content):
                return self._careful_row(record)
            return self._filled(record, content)
        except (TypeError, RecursionError, _NotPlain):  # a lone surrogate, over 64 bits, too deep
            return self._careful_row(record)

    def _careful_row(self, record: dict[str, Any]) -> dict[str, Any]:
        """The row of a record that holds something a destination, or dlt, can't."""
        held = {name: self._held(name, value) for name, value in record.items()}
        by_ascii_name = {json.dumps(name): value for name, value in held.items()}
        content = orjson.dumps(by_ascii_name, option=orjson.OPT_SORT_KEYS)
        row = self._filled(held, content)
        if not self._for_dlts_files:
            return row
        return {column: self._unmarked(column, value) for column, value in row.items()}

    def _held(self, name: str, value: Any) -> Any:
        found: Counter[str] = Counter()
        held = holdable(value, found)
        for what, count in found.items():
            self.warnings[f"{json.dumps(name)}: {what}"] += count
        return held

    def _unmarked(self, column: str, value: Any) -> Any:
        """`value` so that dlt reads no type mark of its own into a leading U+F026 to U+F02E."""
        if isinstance(value, dict | list):
            return orjson.dumps(value).decode()  # dlt parses it after it has looked for marks
        if isinstance(value, str) and custom_pua_decode(value) is not value:
            self.warnings[f"{column}: leading U+F026 to U+F02E replaced by U+FFFD"] += 1
            return REPLACEMENT + value[1:]
        return value

    def _filled(self, record: dict[str, Any], content: bytes) -> dict[str, Any]:
        digest = self._hash.copy()
        digest.update(content)
        row: dict[str, Any] = {HASH_COLUMN: digest.hexdigest()}
        by_field = self._columns.by_field
        for name, value in record.items():
            if value is None:
                continue
            column = by_field.get(name) or self._columns.learn(name, value)
            if type(value) is column.direct:
                row[column.name] = value
            elif column.takes_ms and is_ms(value):
                row[column.name] = to_datetime(value)
            else:
                self._place(row, column, value)
        row["id"] = _id(record)
        return row

    def _place(self, row: dict[str, Any], column: Column, value: Any) -> None:
        if column.name == "id":  # an integer, which `_id` makes text
            return
        if not is_plain(value):
            raise _NotPlain
        fits = fitted(value, column.data_type, is_time=column.is_time)
        if fits is not None:
            row[column.name] = fits
            return
        data_type = natural_type(value, is_time=column.is_time)
        row[self._columns.beside(column, data_type)] = fitted(
            value, data_type, is_time=column.is_time
        )


def _id(record: Mapping[str, Any]) -> str:
    found = record_id(record)
    if found is None:
        raise ValueError("a record without a usable id has no row; sort it out with records.split")
    return found
