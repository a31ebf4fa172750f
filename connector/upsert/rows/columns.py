"""Which column of the input becomes which field of the API."""

from __future__ import annotations

from collections.abc import Mapping as AnyMapping
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from connector.errors import BadMapping, DoubledColumn, InputError, UnknownColumn, nearest
from connector.upsert.rows.field_names import field_called, field_like, normalized
from connector.upsert.rows.models import ACTIVITY_FIELDS, ACTIVITY_PREFIXES, REQUIRED

if TYPE_CHECKING:
    from connector.upsert.rows.mapping import Mapping

REASON_COLUMN = "_hc_reject_reason"
ROW_COLUMN = "_hc_row"
ABSENT_COLUMN = "_hc_absent"
DELETED_COLUMN = "_hc_deleted_at"
OWN_PREFIXES = ("_hc_", "_dlt_")
_READ_ONLY = frozenset({"id", "createdat", "updatedat", "currentstage", "currentstageid"})


@dataclass(frozen=True)
class ColumnPlan:
    """What is read from where. fields: column → API field, in the input's order.

    constants: API field → value, for every row. ignored: columns that aren't read.
    place: the input, for people. left_out: columns that match no field, with the field that each
    looks like. full_name: the column that holds first and last name together. export: the
    program whose export this is.
    """

    place: str
    fields: dict[str, str]
    constants: dict[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    constants_place: str = "[constants]"
    left_out: tuple[tuple[str, str | None], ...] = ()
    full_name: str | None = None
    export: str | None = None

    def column_of(self, api_field: str) -> str:
        """The column behind `api_field`; the field itself where it is a constant."""
        columns = (column for column, name in self.fields.items() if name == api_field)
        return next(columns, api_field)


def match_columns(
    columns: Sequence[str], mapping: Mapping, ignore_unknown: bool, place: str, from_table: bool
) -> ColumnPlan:
    mapped = _mapped(columns, mapping, place)
    ignored_names = {normalized(name) for name in mapping.ignore}
    fields: dict[str, str] = {}
    ignored: list[str] = []
    for column in columns:
        target = mapped.get(column)
        if target is None:
            if normalized(column) in ignored_names or _is_passed_over(column, from_table):
                ignored.append(column)
                continue
            target = field_called(column)
        if target is not None:
            fields[column] = target
        elif ignore_unknown:
            ignored.append(column)
        else:
            is_only = len(columns) == 1 and not from_table
            raise UnknownColumn(
                place=place, column=column, nearest=field_like(column), is_only=is_only
            )
    _check_doubles(fields, mapping, place)
    _check_required(fields, mapping, place)
    return ColumnPlan(place, fields, mapping.constants, tuple(ignored), mapping.place)


def _is_passed_over(column: str, from_table: bool) -> bool:
    if column.startswith(OWN_PREFIXES):
        return True
    return from_table and normalized(column) in _READ_ONLY


def _mapped(columns: Sequence[str], mapping: Mapping, place: str) -> dict[str, str]:
    """[columns], by the names that the input itself uses."""
    by_name = {normalized(column): column for column in columns}
    mapped = {}
    for name, target in mapping.columns.items():
        column = name if name in columns else by_name.get(normalized(name))
        if column is None:
            near = nearest(name, columns)
            hint = f" Did you mean {near!r}?" if near else ""
            raise BadMapping(
                place=mapping.place, reason=f"[columns]: {place} has no column {name!r}.{hint}"
            )
        mapped[column] = target
    return mapped


def _check_doubles(fields: AnyMapping[str, str], mapping: Mapping, place: str) -> None:
    first: dict[str, str] = {}
    for column, name in fields.items():
        if name in first:
            raise DoubledColumn(place=place, columns=(first[name], column), field=name)
        if name in mapping.constants:
            raise BadMapping(
                place=mapping.place,
                reason=f"[constants]: {name!r} is also column {column!r} of {place}. Remove the "
                "constant, or name the column under `ignore`.",
            )
        first[name] = column


def _check_required(fields: AnyMapping[str, str], mapping: Mapping, place: str) -> None:
    known = {*fields.values(), *mapping.constants}
    wanted = sorted(REQUIRED["prospects"])
    for prefix, kind in ACTIVITY_PREFIXES.items():
        if any(name in known for name in ACTIVITY_FIELDS if name.startswith(f"{prefix}.")):
            wanted += [f"{prefix}.{name}" for name in sorted(REQUIRED[kind])]
    missing = [name for name in wanted if name not in known]
    if missing:
        raise InputError(
            place=place,
            reason=f"no column for {', '.join(missing)}, which the API requires. Add the column, "
            "or map one or give a constant in a mapping file (--mapping).",
        )
