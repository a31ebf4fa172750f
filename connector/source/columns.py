"""Which column each field of a resource fills: names, types, collisions, columns beside."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from dlt.common.data_types.typing import TDataType
from dlt.common.schema.typing import TColumnSchema

from connector.source.fields import CONTRACT, MS_FIELDS
from connector.source.naming import column_name, is_reserved, own_column_name, variant_name
from connector.source.privacy import Privacy
from connector.source.values import natural_type

HASH_COLUMN = "_hc_hash"
DELETED_COLUMN = "_hc_deleted_at"
UNLISTED_COLUMN = "_hc_unlisted_at"
FIELD_HINT = "x-hc-field"
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

    def beside(self, column: Column, data_type: str) -> str:
        """The name of the column for values of `data_type`, which `column` can't hold."""
        name = variant_name(column.name, data_type)
        if name not in self.schemas:
            self._declare(name, data_type)
        self._warnings[f"{column.name}: {data_type} value kept in {name}"] += 1
        return name

    def _add_contract_field(self, api_name: str, data_type: str) -> None:
        name = column_name(api_name)
        known_type = self._known_types.get(name, data_type)
        self._owners[name] = _mark(api_name)
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
            owner = self._owners.setdefault(usual, _mark(api_name))
            if owner == _mark(api_name):
                return usual
        self._warnings[f"field {_mark(api_name)} shares its column name; kept in {own}"] += 1
        return own

    def _declare(self, name: str, data_type: str, api_name: str | None = None) -> None:
        schema: TColumnSchema = {
            "name": name,
            "data_type": cast(TDataType, data_type),
            "nullable": True,
        }
        if api_name is not None:
            cast(dict[str, str], schema)[FIELD_HINT] = _mark(api_name)
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


def _mark(api_name: str) -> str:
    """`api_name` as a schema file can hold it."""
    return json.dumps(api_name) if not api_name.isprintable() else api_name
