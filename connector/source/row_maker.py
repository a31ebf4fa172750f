"""Records → rows ready for dlt: named columns, values that fit their type, and a content hash.

Rows are made column by column. A value that doesn't fit its column lands in the variant column,
`<column>__v_<type>`; nothing is silently coerced.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import orjson
import pyarrow as pa

from connector.errors import BadSetting, ConfigurationError
from connector.settings import PullSettings
from connector.source.fields import (
    CONTRACT,
    DELETED_COLUMN,
    FIELD_HINT,
    HASH_COLUMN,
    ID_FIELDS,
    MS_FIELDS,
    REPLACEMENT,
    UNLISTED_COLUMN,
    all_fit,
    arrow_table,
    fitted,
    holdable,
    is_plain,
    natural_type,
    record_id,
    to_datetime,
    with_text_ids,
)

if TYPE_CHECKING:  # dlt is imported once there is something to load
    from dlt.common.data_types.typing import TDataType
    from dlt.common.normalizers.naming import NamingConvention
    from dlt.common.schema.typing import TColumnSchema

MAX_LENGTH = 63  # PostgreSQL's; the same everywhere, so that columns are
_UNNAMED = "unnamed"
_RESERVED = ("_dlt", "_hc")
_USUAL_NAME = re.compile(r"[a-z]+(?:[A-Z][a-z]+)*")  # such as the API's own


@cache
def _naming() -> NamingConvention:
    from dlt.common.normalizers.naming.snake_case import NamingConvention

    return NamingConvention(MAX_LENGTH)


def column_name(api_name: str) -> str:
    """`api_name` in snake_case, at most MAX_LENGTH characters; several names may share one."""
    if len(api_name) <= MAX_LENGTH // 2 and _USUAL_NAME.fullmatch(api_name):
        return re.sub("([A-Z])", r"_\1", api_name).lower()
    try:
        return _naming().normalize_identifier(api_name.encode("utf-8", "replace").decode("utf-8"))
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
    start = _naming().shorten_identifier(column, column, MAX_LENGTH - len(suffix))
    return f"{start.rstrip('_')}{suffix}"


class Privacy:
    """The excluded and hashed fields of one resource. Immutable.

    exclude, hashed: fields, by API name or by column. hash_key: secret bytes; with the same key,
    equal values have equal hashes, so that hashed columns can still be joined and counted.
    digest: 16 bytes that change with any of these, so that rows are written again.

    Raises:
        BadSetting: columns are to be hashed, and there is no key.
        ConfigurationError: `id` is among the fields.
    """

    def __init__(
        self,
        resource: str,
        exclude: Iterable[str] = (),
        hashed: Iterable[str] = (),
        hash_key: bytes = b"",
    ) -> None:
        self._exclude, self._hashed = frozenset(exclude), frozenset(hashed)
        if "id" in self._exclude | self._hashed:
            raise ConfigurationError(
                f"pull.{resource}: id can't be excluded or hashed: it identifies the row."
            )
        if self._hashed and not hash_key:
            raise BadSetting(
                name="pull.hash_key",
                location=f"[pull.{resource}] hash_columns",
                reason="hashing needs a key: set HIRINGCENTER_PULL__HASH_KEY to a long random text",
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


@dataclass(frozen=True, slots=True)
class Column:
    """is_time: the field is in Unix milliseconds."""

    name: str
    data_type: str
    is_time: bool


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
        column = Column(name, data_type, is_time)
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
            "data_type": cast("TDataType", data_type),
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
_NUL = b"\\u0000"
_AT_ONCE = 1000  # records that are checked together, which are in memory once more meanwhile
_NUMBERS = bytes.maketrans(b"123456789,[-", b"000000000:::")
_OVER_64_BITS = b":" + b"0" * 19  # as many digits as the smallest integer of over 64 bits has
_DLT_TYPE_PREFIX = b"\xef\x80"  # the start of U+F026 to U+F02E, which mark types in dlt's own files


def configured_privacy(resource: str, pull: PullSettings) -> Privacy:
    """The `Privacy` of one resource as the settings want it; raises what `Privacy` does."""
    own, key = getattr(pull, resource), pull.hash_key
    given = key.get_secret_value().encode() if key else b""
    return Privacy(resource, own.exclude_columns, own.hash_columns, given)


def configured_maker(
    resource: str, known_columns: Mapping[str, str | TColumnSchema], pull: PullSettings
) -> RowMaker:
    """The `RowMaker` of one resource as the settings want its rows; raises what `Privacy` does."""
    return RowMaker(resource, known_columns, configured_privacy(resource, pull))


@dataclass(frozen=True, slots=True)
class UniqueRecords:
    """Records of one list, one per id, as every destination can hold them.

    ids, hashes: of each record, its id as text and the hash of its content.
    """

    ids: list[str]
    hashes: list[str]
    records: list[dict[str, Any]]

    def only(self, places: Sequence[int]) -> UniqueRecords:
        """The records at some places of the lists."""
        if len(places) == len(self.ids):
            return self
        return UniqueRecords(
            [self.ids[at] for at in places],
            [self.hashes[at] for at in places],
            [self.records[at] for at in places],
        )


class RowMaker:
    """Makes the rows of one resource. Not thread-safe.

    known_columns: the table's columns so far, by name: dlt data type or dlt column schema.
    Schemas from this class remember which field filled them (`x-hc-field`), so that a name
    collision is decided the same way by every run. privacy: by default, no field is left out or
    hashed. warnings: what was replaced or kept in variant columns, with counts; field names, never
    values.
    """

    def __init__(
        self,
        resource: str,
        known_columns: Mapping[str, str | TColumnSchema],
        privacy: Privacy | None = None,
    ) -> None:
        self.warnings: Counter[str] = Counter()
        self._privacy = privacy or Privacy(resource)
        self._id_fields = ID_FIELDS & CONTRACT[resource].keys()
        self._columns = Columns(resource, known_columns, self._privacy, self.warnings)
        self._hash = hashlib.blake2b(
            digest_size=16, person=_FORMAT, salt=self._privacy.digest, usedforsecurity=False
        )

    @property
    def columns(self) -> dict[str, TColumnSchema]:
        """Hints for dlt: every column of the contract, and every one filled so far."""
        return self._columns.schemas

    def unique(self, records: Iterable[dict[str, Any]]) -> UniqueRecords:
        """One record per id, in the order of the ids' first appearance; an id's last one wins.

        Raises:
            ValueError: a record without a usable id (`split_malformed` sorts those out).
        """
        held: list[dict[str, Any]] = []
        hashes: list[str] = []
        waiting = iter(records)
        while some := [self._privacy.applied(record) for record in islice(waiting, _AT_ONCE)]:
            with_text_ids(some, self._id_fields)
            hashes += map(self._digest, self._contents(some))
            held += some
        ids = [*map(_id, held)]
        last = dict(zip(ids, range(len(ids)), strict=True))
        return UniqueRecords(ids, hashes, held).only([*last.values()])

    def _digest(self, content: bytes) -> str:
        digest = self._hash.copy()
        digest.update(content)
        return digest.hexdigest()

    def _contents(self, records: list[dict[str, Any]]) -> list[bytes]:
        """What each record's hash is taken from. In `records`, it replaces those with something
        that a destination can't hold; looking at all of them at once is a tenth of the work."""
        try:
            contents = [orjson.dumps(record, option=_STRICT) for record in records]
        except (TypeError, RecursionError):  # a lone surrogate, over 64 bits, too deep
            pass
        else:
            together = b"".join(contents)
            if _NUL not in together and _OVER_64_BITS not in together.translate(_NUMBERS):
                return contents
        return [self._content(records, at) for at in range(len(records))]

    def _content(self, records: list[dict[str, Any]], at: int) -> bytes:
        record = records[at]
        with suppress(TypeError, RecursionError):
            content = orjson.dumps(record, option=_STRICT)
            if _NUL not in content and is_plain(record):
                return content
        held = records[at] = {name: self._held(name, value) for name, value in record.items()}
        by_ascii_name = {json.dumps(name): value for name, value in held.items()}
        return orjson.dumps(by_ascii_name, option=orjson.OPT_SORT_KEYS)

    def _held(self, name: str, value: Any) -> Any:
        found: Counter[str] = Counter()
        held = holdable(value, found)
        for what, count in found.items():
            self.warnings[f"{json.dumps(name)}: {what}"] += count
        return held

    # --- rows, column by column -----------------------------------------------------------------

    def table(self, unique: UniqueRecords) -> pa.Table:
        """The rows with every column known so far, each of exactly its type."""
        return arrow_table(self._cells(unique), self.columns, rows=len(unique.ids))

    def rows(self, unique: UniqueRecords) -> list[dict[str, Any]]:
        """The rows as dicts for dlt's own files, which read a meaning into some leading characters;
        without nulls, as dlt leaves them out too."""
        cells = self._cells(unique)
        for column, values in cells.items():
            if self.columns[column]["data_type"] == "timestamp":
                cells[column] = [None if ms is None else to_datetime(ms) for ms in values]
            elif _DLT_TYPE_PREFIX in orjson.dumps(values):
                cells[column] = [self._unmarked(column, value) for value in values]
        return [
            {column: value for column, value in zip(cells, row, strict=True) if value is not None}
            for row in zip(*cells.values(), strict=True)
        ]

    def _cells(self, unique: UniqueRecords) -> dict[str, list[Any]]:
        """Column → its values, of exactly its type: times in Unix milliseconds, JSON as parsed."""
        records, by_field = unique.records, self._columns.by_field
        cells: dict[str, list[Any]] = {"id": unique.ids, HASH_COLUMN: unique.hashes}
        fields = set().union(*records)
        self._learn(records, fields - by_field.keys())
        for field in fields & by_field.keys():
            column = by_field[field]
            if column.name == "id":
                continue
            values = [record.get(field) for record in records]
            if not all_fit(values, column.data_type, is_time=column.is_time):
                values = self._fitted(cells, column, values)
            cells[column.name] = values
        return cells

    def _learn(self, records: list[dict[str, Any]], fields: set[str]) -> None:
        """Give unknown fields columns, in the order of their first values."""
        if not fields:
            return
        for record in records:
            for field, value in record.items():
                if field in fields and value is not None:
                    self._columns.learn(field, value)
                    fields.remove(field)

    def _fitted(self, cells: dict[str, list[Any]], column: Column, values: list[Any]) -> list[Any]:
        """The values that fit a column, with null for the others, which go to variant columns."""
        kept: list[Any] = [None] * len(values)
        for at, value in enumerate(values):
            if value is None:
                continue
            kept[at] = fitted(value, column.data_type, is_time=column.is_time)
            if kept[at] is None:
                data_type = natural_type(value, is_time=column.is_time)
                name = self._columns.variant(column, data_type)
                cells.setdefault(name, [None] * len(values))[at] = value
        return kept

    def _unmarked(self, column: str, value: Any) -> Any:
        """`value` so that dlt reads no type mark of its own into a leading U+F026 to U+F02E."""
        if isinstance(value, dict | list):
            return orjson.dumps(value).decode()  # dlt parses it after it has looked for marks
        from dlt.common.json import custom_pua_decode

        if isinstance(value, str) and custom_pua_decode(value) is not value:
            self.warnings[f"{column}: leading U+F026 to U+F02E replaced by U+FFFD"] += 1
            return REPLACEMENT + value[1:]
        return value


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
