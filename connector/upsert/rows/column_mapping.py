"""Which column of the input becomes which field of the API."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
from connector.upsert.rows.write_schema import ACTIVITY_FIELDS, ACTIVITY_PREFIXES, REQUIRED

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
    columns: Sequence[str],
    mapping: ColumnMapping,
    ignore_unknown: bool,
    place: str,
    from_table: bool,
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
    columns: Sequence[str], export: Export | None, given: set[str], mapped: Mapping[str, str]
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
    columns: Sequence[str], mapping: ColumnMapping, place: str, from_table: bool
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


def _check_doubles(fields: Mapping[str, str], mapping: ColumnMapping, place: str) -> None:
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
    fields: Mapping[str, str], mapping: ColumnMapping, place: str, full_name: str | None
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


@dataclass(frozen=True)
class ColumnMapping:
    """A mapping file. place: its path, for people."""

    columns: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    place: str = "mapping"

    @classmethod
    def load(cls, path: str | Path) -> ColumnMapping:
        """The mapping in the TOML file at `path`.

        Raises:
            BadMapping: no such file, no TOML, an unknown name, an unknown or doubled field.
        """
        place = str(path)
        table = _read(Path(path))
        for name in table:
            if name not in ("columns", "constants", "ignore"):
                known = nearest(name, ("columns", "constants", "ignore"))
                hint = f" Did you mean {known!r}?" if known else ""
                raise BadMapping(
                    place=place,
                    reason=f"unknown name {name!r}.{hint} It may hold [columns], [constants] "
                    "and ignore.",
                )
        ignore = table.get("ignore", [])
        if not isinstance(ignore, list) or not all(isinstance(name, str) for name in ignore):
            raise BadMapping(place=place, reason='ignore: expected a list, as in ["Remarks"]')
        columns = _section(table, "columns", place)
        _check_columns(columns, place)
        constants = _flat(_section(table, "constants", place))
        return cls(
            columns={name: _known_field(to, place, "columns") for name, to in columns.items()},
            constants={_known_field(to, place, "constants"): it for to, it in constants.items()},
            ignore=tuple(ignore),
            place=place,
        )

    @staticmethod
    def match(
        columns: Sequence[str],
        mapping: ColumnMapping | None = None,
        ignore_unknown: bool = False,
        *,
        place: str = "input",
        from_table: bool = False,
    ) -> ColumnPlan:
        """Where each of `columns` goes.

        from_table: columns that the API only hands out (`id`, `created_at` …) are ignored, where
        they are errors in a file. The connector's own (`_hc_…`, `_dlt_…`) are ignored always.

        Raises:
            UnknownColumn: a column that neither the mapping nor a field's name explains.
            DoubledColumn: two columns for one field.
            BadMapping: the mapping names a column that the input hasn't.
            InputError: no column gives the first or the last name, or an activity its fields.
        """
        return match_columns(columns, mapping or ColumnMapping(), ignore_unknown, place, from_table)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        reason = f"can't be read: {error.strerror}. Check --mapping."
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = f"can't be read as TOML: {error}."
    raise BadMapping(place=str(path), reason=reason)


def _section(table: Mapping[str, Any], name: str, place: str) -> dict[str, Any]:
    section = table.get(name, {})
    if not isinstance(section, dict):
        raise BadMapping(place=place, reason=f"[{name}]: expected a table of names and values.")
    return section


def _flat(section: Mapping[str, Any]) -> dict[str, Any]:
    """`note.body = "…"` is a table in a table in TOML; here it is the field `note.body`."""
    flat: dict[str, Any] = {}
    for name, value in section.items():
        if isinstance(value, dict) and name in ACTIVITY_PREFIXES:
            flat |= {f"{name}.{inner}": inner_value for inner, inner_value in value.items()}
        else:
            flat[name] = value
    return flat


def _check_columns(columns: Mapping[str, Any], place: str) -> None:
    for column, name in columns.items():
        if not isinstance(name, str):
            raise BadMapping(
                place=place,
                reason=f"[columns] {column!r}: expected the name of an API field. Quote a column "
                "whose name holds a dot or a space.",
            )


def _known_field(name: str, place: str, section: str) -> str:
    known = field_called(name)
    if known is None:
        like = field_like(name)
        hint = f" Did you mean {like!r}?" if like else ""
        raise BadMapping(place=place, reason=f"[{section}]: the API has no field {name!r}.{hint}")
    return known
