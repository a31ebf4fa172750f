"""Which column of the input becomes which field of the API."""

from __future__ import annotations

import re
from collections.abc import Mapping as AnyMapping
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from connector.errors import (
    BadMapping,
    DoubledColumn,
    InputError,
    NoHeader,
    UnknownColumn,
    listed_columns,
    nearest,
)
from connector.upsert.rows.field_names import (
    Export,
    export_of,
    field_called,
    field_like,
    field_meant,
    is_field_word,
    is_full_name,
    normalized,
)
from connector.upsert.rows.models import ACTIVITY_FIELDS, ACTIVITY_PREFIXES, REQUIRED

if TYPE_CHECKING:
    from connector.upsert.rows.mapping import Mapping

REASON_COLUMN = "_hc_reject_reason"
ROW_COLUMN = "_hc_row"
ABSENT_COLUMN = "_hc_absent"
DELETED_COLUMN = "_hc_deleted_at"
OWN_PREFIXES = ("_hc_", "_dlt_")
_DATA = re.compile(r"\s*(?:\S+@\S+\.\S+|[+(]?(?:\d[\s().\-/]*){7,})\s*")  # an email, a phone
_MOST_COMPARED = 200  # columns that are looked at for a field that they resemble
_LONGEST_VALUE = 320  # of an email
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

    @property
    def notes(self) -> list[str]:
        """What people should know about the columns."""
        notes = [f"columns as {self.export} exports them"] if self.export else []
        if self.left_out:
            notes.append(f"columns left out: {listed_columns(self.left_out)}")
        return notes


def match_columns(
    columns: Sequence[str], mapping: Mapping, ignore_unknown: bool, place: str, from_table: bool
) -> ColumnPlan:
    mapped = _mapped(columns, mapping, place, from_table)
    ignored_names = {normalized(name) for name in mapping.ignore}
    ignored = [
        column
        for column in columns
        if column not in mapped
        and (normalized(column) in ignored_names or _is_passed_over(column, from_table))
    ]
    open_columns = [column for column in columns if column not in {*mapped, *ignored}]
    export = None if from_table else export_of(open_columns)
    fields, unmatched, foreign = _matched(open_columns, export, {*mapping.constants}, mapped)
    full_name = _full_name(unmatched + foreign, {*fields.values(), *mapping.constants})
    unmatched = [column for column in unmatched if column != full_name]
    foreign = [column for column in foreign if column != full_name]
    left_out = [
        (column, field_like(column) if position < _MOST_COMPARED else None)
        for position, column in enumerate(unmatched)
    ]
    if left_out and not ignore_unknown:
        raise _unknown(left_out, columns, len(fields), place, from_table)
    fields = {column: fields[column] for column in columns if column in fields}
    _check_doubles(fields, mapping, place)
    _check_required(fields, mapping, place, full_name)
    return ColumnPlan(
        place,
        fields,
        mapping.constants,
        tuple(column for column in columns if column not in fields and column != full_name),
        mapping.place,
        (*left_out, *((column, None) for column in foreign)),
        full_name,
        export.name if export else None,
    )


def _matched(
    columns: Sequence[str], export: Export | None, given: set[str], mapped: AnyMapping[str, str]
) -> tuple[dict[str, str], list[str], list[str]]:
    """(column → field, columns that match none, columns that an export is known to have beside).

    given: fields that are constants.
    """
    fields = dict(mapped)
    taken = {*mapped.values(), *given}
    told = dict(export.targets(columns, taken)) if export else {}
    fields |= {column: target for column, target in told.items() if target is not None}
    others = [column for column in columns if column not in told]
    named = {column: target for column in others if (target := field_called(column))}
    fields |= named
    taken |= {*fields.values()}
    unmatched = []
    for column in others:
        if column in named:
            continue
        meant = field_meant(column)
        if meant is not None and meant not in taken:
            fields[column] = meant
            taken.add(meant)
        else:
            unmatched.append(column)
    return fields, unmatched, [column for column, target in told.items() if target is None]


def _full_name(columns: Sequence[str], given: set[str]) -> str | None:
    """The column that holds first and last name, where nothing else gives either."""
    if given & {"firstName", "lastName"}:
        return None
    return next((column for column in columns if is_full_name(column)), None)


def _unknown(
    unknown: Sequence[tuple[str, str | None]],
    columns: Sequence[str],
    matched: int,
    place: str,
    from_table: bool,
) -> InputError:
    """The error for columns that match nothing; quotes them unless they may be somebody's data.

    A name, a company or a town may look like a field (`Tate` like `state`), or be called as one: a
    first row counts as a header where two of its cells are fields, or half of them.
    """
    is_only = len(columns) == 1 and not from_table
    if not from_table:
        data_in = next(
            (n for n, name in enumerate(columns, 1) if _DATA.fullmatch(name[:_LONGEST_VALUE])), None
        )
        if matched < 2 and (data_in or 2 * matched < len(columns)):
            lengths = [len(column) for column in columns]
            nears = {columns.index(column) + 1: near for column, near in unknown if near}
            return NoHeader(
                place=place, lengths=lengths, data_in=data_in, is_only=is_only, matched=matched,
                near=dict(sorted(nears.items())),
            )  # fmt: skip
    (column, near), *others = unknown
    return UnknownColumn(place=place, column=column, nearest=near, is_only=is_only, others=others)


def _is_passed_over(column: str, from_table: bool) -> bool:
    if column.startswith(OWN_PREFIXES):
        return True
    return from_table and normalized(column) in _READ_ONLY


def _mapped(
    columns: Sequence[str], mapping: Mapping, place: str, from_table: bool
) -> dict[str, str]:
    """[columns], by the names that the input itself uses."""
    by_name = {normalized(column): column for column in columns}
    mapped = {}
    for name, target in mapping.columns.items():
        column = name if name in columns else by_name.get(normalized(name))
        if column is None:
            # of a row that may be a person's, only words for fields are shown
            near = nearest(name, columns if from_table else filter(is_field_word, columns))
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


def _check_required(
    fields: AnyMapping[str, str], mapping: Mapping, place: str, full_name: str | None
) -> None:
    known = {*fields.values(), *mapping.constants}
    if full_name is not None:
        known |= {"firstName", "lastName"}
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
