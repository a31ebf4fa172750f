"""Records → rows ready for dlt: named columns, values that fit their type, and a content hash.

A value that doesn't fit its column lands in the variant column, `<column>__v_<type>`; nothing is
silently coerced. Rows leave out nulls, as dlt itself does; an upsert writes those as null.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson
from dlt.common.data_types.typing import TDataType
from dlt.common.json import custom_pua_decode
from dlt.common.normalizers.naming.snake_case import NamingConvention
from dlt.common.schema.typing import TColumnSchema

from connector.errors import BadSetting, ConfigurationError
from connector.settings import PullSettings
from connector.source.exact_values import (
    REPLACEMENT,
    fitted,
    holdable,
    is_ms,
    is_plain,
    natural_type,
    to_datetime,
)
from connector.source.fields import (
    CONTRACT,
    DELETED_COLUMN,
    FIELD_HINT,
    HASH_COLUMN,
    MS_FIELDS,
    UNLISTED_COLUMN,
    record_id,
)

MAX_LENGTH = 63  # PostgreSQL's; the same everywhere, so that columns are
_UNNAMED = "unnamed"
_RESERVED = ("_dlt", "_hc")
_naming = NamingConvention(MAX_LENGTH)


def column_name(api_name: str) -> str:
    """`api_name` in snake_case, at most MAX_LENGTH characters; several names may share one."""
    try:
        return _naming.normalize_identifier(api_name.encode("utf-8", "replace").decode("utf-8"))
    except ValueError:  # nothing but spaces
        return _UNNAMED


def is_reserved(column: str) -> bool:
    """Whether `column` is filled by dlt or the connector, never by the API."""
    return column.startswith(_RESERVED)


def own_column_name(api_name: str) -> str:
    """A column that no other API name gets: the usual name and a tag of the exact API name."""
    column = column_name(api_name)
    tag = hashlib.blake2b(api_name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    start = f"x{column}" if is_reserved(column) else column
    return f"{start[: MAX_LENGTH - 11].rstrip('_')}__f{tag}"


def variant_name(column: str, data_type: str) -> str:
    """The variant column of `column` for values of another type, as dlt names it."""
    suffix = f"__v_{data_type}"
    start = _naming.shorten_identifier(column, column, MAX_LENGTH - len(suffix))
    return f"{start.rstrip('_')}{suffix}"


class Privacy:
    """The excluded and hashed fields of one resource. Immutable.

    exclude, hashed: fields, by API name or by column. hash_key: secret bytes; with the same key,
    equal values have equal hashes, so that hashed columns can still be joined and counted.
    digest: 16 bytes that change with any of these, so that rows are written again.

    Raises:
        ConfigurationError: `hashed` without `hash_key`, or `id` among the fields.
    """

    def __init__(
        self, resource: str, exclude: Iterable[str], hashed: Iterable[str], hash_key: bytes
    ) -> None:
        self._exclude, self._hashed = frozenset(exclude), frozenset(hashed)
        if "id" in self._exclude | self._hashed:
            raise ConfigurationError(
                f"pull.{resource}: id can't be excluded or hashed: it identifies the row."
            )
        if self._hashed and not hash_key:
            raise ConfigurationError(
                f"pull.{resource}.hash_columns needs a secret: set HIRINGCENTER_PULL__HASH_KEY."
            )
        self._key = hashlib.blake2b(hash_key, digest_size=32).digest()
        self.digest = self._digest()

    def _digest(self) -> bytes:
        if not self._exclude and not self._hashed:
            return bytes(16)
        facts = [sorted(self._exclude), sorted(self._hashed), self._key.hex()]
        return hashlib.blake2b(orjson.dumps(facts), digest_size=16).digest()

    def excludes(self, api_name: str) -> bool:
        return bool(self._exclude) and not self._exclude.isdisjoint(_names(api_name))

    def hashes(self, api_name: str) -> bool:
        return bool(self._hashed) and not self._hashed.isdisjoint(_names(api_name))

    def applied(self, record: dict[str, Any]) -> dict[str, Any]:
        """`record` without what is excluded, and with hashes in place of what is hashed.

        The content hash is taken from this, so that it can't be used to guess what isn't there.
        """
        if not self._exclude and not self._hashed:
            return record
        return {
            name: self.keyed_hash(value) if value is not None and self.hashes(name) else value
            for name, value in record.items()
            if not self.excludes(name)
        }

    def keyed_hash(self, value: Any) -> str:
        """32 hexadecimal digits. Text is hashed as its UTF-8 bytes, everything else as JSON."""
        if isinstance(value, str):
            content = value.encode("utf-8", "surrogatepass")
        else:
            content = orjson.dumps(holdable(value, Counter()), option=orjson.OPT_SORT_KEYS)
        return hashlib.blake2b(content, digest_size=16, key=self._key).hexdigest()


def _names(api_name: str) -> tuple[str, str]:
    return api_name, column_name(api_name)


_DIRECT = {"text": str, "bool": bool}


@dataclass(frozen=True, slots=True)
class Column:
    """is_time: the field is in Unix milliseconds. direct: what has this type is stored as it is.

    takes_ms: whole numbers of milliseconds are stored as points in time.
    """

    name: str
    data_type: str
    is_time: bool
    direct: type | None
    takes_ms: bool


class Columns:
    """The columns of one resource's table, as far as known; grows with the fields it meets.

    by_field: API name → Column. schemas: column name → dlt's hints, for the contract's columns
    and for those filled since. Names come from the API, so neither shows values.
    """

    def __init__(
        self,
        resource: str,
        known: Mapping[str, str | TColumnSchema],
        privacy: Privacy,
        warnings: Counter[str],
    ) -> None:
        self.by_field: dict[str, Column] = {}
        self.schemas: dict[str, TColumnSchema] = {}
        self._warnings = warnings
        types = {name: _data_type(column) for name, column in known.items()}
        self._known_types = {name: data_type for name, data_type in types.items() if data_type}
        self._owners = _owners(known)
        for api_name, data_type in CONTRACT[resource].items():
            if not privacy.excludes(api_name):
                self._add_contract_field(
                    api_name, "text" if privacy.hashes(api_name) else data_type
                )
        self.schemas["id"] |= {"nullable": False, "primary_key": True}
        self._declare(HASH_COLUMN, "text")
        self._declare(DELETED_COLUMN, "timestamp")
        self._declare(UNLISTED_COLUMN, "timestamp")

    def learn(self, api_name: str, value: Any) -> Column:
        """The column of a field met for the first time, typed by `value` unless it is known."""
        name = self._name(api_name)
        is_time = api_name in MS_FIELDS
        data_type = self._known_types.get(name) or ("timestamp" if is_time else natural_type(value))
        return self._add(api_name, name, data_type, is_time=is_time)

    def variant(self, column: Column, data_type: str) -> str:
        """The name of the column for values of `data_type`, which `column` can't hold."""
        name = variant_name(column.name, data_type)
        if name not in self.schemas:
            self._declare(name, data_type)
        self._warnings[f"{column.name}: {data_type} value kept in {name}"] += 1
        return name

    def _add_contract_field(self, api_name: str, data_type: str) -> None:
        name = column_name(api_name)
        known_type = self._known_types.get(name, data_type)
        self._owners[name] = _schema_text(api_name)
        self._add(api_name, name, known_type, is_time=api_name in MS_FIELDS)

    def _add(self, api_name: str, name: str, data_type: str, *, is_time: bool) -> Column:
        takes_ms = is_time and data_type == "timestamp"
        column = Column(name, data_type, is_time, _DIRECT.get(data_type), takes_ms)
        self.by_field[api_name] = column
        self._declare(name, data_type, api_name)
        return column

    def _name(self, api_name: str) -> str:
        """The usual column, unless it is ours, dlt's, or another field's."""
        usual, own = column_name(api_name), own_column_name(api_name)
        if not is_reserved(usual) and own not in self._known_types:
            owner = self._owners.setdefault(usual, _schema_text(api_name))
            if owner == _schema_text(api_name):
                return usual
        self._warnings[f"field {_schema_text(api_name)} shares its column name; kept in {own}"] += 1
        return own

    def _declare(self, name: str, data_type: str, api_name: str | None = None) -> None:
        schema: TColumnSchema = {
            "name": name,
            "data_type": cast(TDataType, data_type),
            "nullable": True,
        }
        if api_name is not None:
            cast(dict[str, str], schema)[FIELD_HINT] = _schema_text(api_name)
        self.schemas[name] = schema


def _data_type(column: str | TColumnSchema) -> str:
    return column if isinstance(column, str) else column.get("data_type") or ""


def _owners(known: Mapping[str, str | TColumnSchema]) -> dict[str, str]:
    """Column → the field that filled it before, where its schema remembers."""
    return {
        name: cast(dict[str, str], column)[FIELD_HINT]
        for name, column in known.items()
        if not isinstance(column, str) and FIELD_HINT in column
    }


def _schema_text(api_name: str) -> str:
    """`api_name` as a schema file can hold it."""
    return json.dumps(api_name) if not api_name.isprintable() else api_name


_FORMAT = b"hc-row-1"  # change it when unchanged records make other rows: all are written again
_STRICT = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_SUBCLASS  # refuses KeptAsText
_DLT_TYPE_PREFIX = b"\xef\x80"  # the start of U+F026 to U+F02E, which mark types in dlt's own files


class _NotPlain(Exception):
    """A value of the record has to be replaced first."""


def configured_maker(
    resource: str,
    known_columns: Mapping[str, str | TColumnSchema],
    pull: PullSettings,
    *,
    for_dlts_files: bool = False,
) -> RowMaker:
    """The `RowMaker` of one resource as the settings want its rows.

    Raises:
        BadSetting: columns are to be hashed, and there is no key.
    """
    own = getattr(pull, resource)
    key = pull.hash_key.get_secret_value() if pull.hash_key else ""
    if own.hash_columns and not key:
        raise BadSetting(
            name="pull.hash_key",
            location=f"[pull.{resource}] hash_columns",
            reason="hashing needs a key: set HIRINGCENTER_PULL__HASH_KEY to a long random text",
        )
    return RowMaker(
        resource,
        known_columns,
        exclude=own.exclude_columns,
        hashed=own.hash_columns,
        hash_key=key.encode(),
        for_dlts_files=for_dlts_files,
    )


class RowMaker:
    """Makes the rows of one resource. Not thread-safe.

    known_columns: the table's columns so far, by name: dlt data type or dlt column schema.
    Schemas from this class remember which field filled them (`x-hc-field`), so that a name
    collision is decided the same way by every run. exclude, hashed: fields by column or API name
    that are left out, or replaced by a keyed hash. hash_key: secret, needed for `hashed`.
    for_dlts_files: the rows travel as dicts through dlt's own files, which read a meaning into
    some leading characters; Arrow tables don't.
    warnings: what was replaced or kept in variant columns, with counts; field names, never values.

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
            ValueError: a record without a usable id (`split_malformed` sorts those out).
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
            if b"\\u0000" in content or (self._for_dlts_files and _DLT_TYPE_PREFIX in content):
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
                self._store(row, column, value)
        row["id"] = _id(record)
        return row

    def _store(self, row: dict[str, Any], column: Column, value: Any) -> None:
        if column.name == "id":  # an integer, which `_id` makes text
            return
        if not is_plain(value):
            raise _NotPlain
        fits = fitted(value, column.data_type, is_time=column.is_time)
        if fits is not None:
            row[column.name] = fits
            return
        data_type = natural_type(value, is_time=column.is_time)
        row[self._columns.variant(column, data_type)] = fitted(
            value, data_type, is_time=column.is_time
        )


def _id(record: Mapping[str, Any]) -> str:
    found = record_id(record)
    if found is None:
        raise ValueError("a record without a usable id has no row: see split_malformed")
    return found


MALFORMED_TABLE = "_hc_malformed_records"
MALFORMED_COLUMNS: dict[str, TColumnSchema] = {
    "id": {"name": "id", "data_type": "text", "nullable": False, "primary_key": True},
    "resource": {"name": "resource", "data_type": "text"},
    "content": {"name": "content", "data_type": "text"},
}


def malformed_rows(resource: str, items: Iterable[Any]) -> list[dict[str, Any]]:
    """A row of MALFORMED_TABLE for each malformed record, known by its content.

    So nothing that was read is lost, and the same record read again is the same row.
    """
    rows = {}
    for item in items:
        content = json.dumps(item, sort_keys=True)  # ASCII: NUL and surrogates stay escaped
        digest = hashlib.blake2b(f"{resource}\n{content}".encode(), digest_size=16).hexdigest()
        rows[digest] = {"id": digest, "resource": resource, "content": content}
    return list(rows.values())
