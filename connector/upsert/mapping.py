"""Which column of the input becomes which field of the API.

Headers match fields without regard to case, spaces, `_` and `-`; a mapping file (TOML) says
otherwise: `[columns]` input column = API field, `[constants]` API field = value,
`ignore = [columns]`. Fields of the activities are written `note.body`, `task.dueAt` and so on.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping as AnyMapping
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connector.errors import BadMapping, DoubledColumn, InputError, UnknownColumn, nearest
from connector.upsert.models import ACTIVITY_FIELDS, ACTIVITY_PREFIXES, FIELDS, REQUIRED

REASON_COLUMN = "_hc_reject_reason"
DELETED_COLUMN = "_hc_deleted_at"
OWN_PREFIXES = ("_hc_", "_dlt_")
_READ_ONLY = frozenset({"id", "createdat", "updatedat", "currentstage", "currentstageid"})
_OTHER_WORDS = {
    "firstName": "forename givenname vorname first fname",
    "lastName": "surname familyname nachname last lname",
    "email": "emailaddress mail",
    "phone": "mobile cell cellphone phonenumber telephone tel mobilephone",
    "postalCode": "zip zipcode postcode plz",
    "streetAddress": "street address addressline1 address1",
    "state": "province region",
    "city": "town",
    "company": "employer organization organisation companyname",
    "title": "jobtitle position role",
    "labels": "label tags tag",
    "notes": "comment comments remarks",
    "stageId": "stage",
    "licenseStatus": "license licensed licence",
}
_SPACING = re.compile(r"[\s_-]+")


def normalized(name: str) -> str:
    """`name` as it is compared: `E-mail`, `e_mail` and `EMAIL` are one."""
    return _SPACING.sub("", name).casefold()


_BY_NAME = {normalized(name): name for name in FIELDS}
_SUGGESTED = {word: name for name, words in _OTHER_WORDS.items() for word in words.split()}


def field_called(name: str) -> str | None:
    """The API field that `name` stands for; None if none does."""
    return _BY_NAME.get(normalized(name))


def field_like(name: str) -> str | None:
    """The API field that `name` was probably meant to be, for error messages."""
    plain = normalized(name)
    if plain in _SUGGESTED:
        return _SUGGESTED[plain]
    near = nearest(plain, _BY_NAME)
    return _BY_NAME[near] if near else None


@dataclass(frozen=True)
class ColumnPlan:
    """What is read from where. fields: column → API field, in the input's order.

    constants: API field → value, for every row. ignored: columns that aren't read.
    place: the input, for people.
    """

    place: str
    fields: dict[str, str]
    constants: dict[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    constants_place: str = "[constants]"

    def column_of(self, api_field: str) -> str:
        """The column behind `api_field`; the field itself where it is a constant."""
        columns = (column for column, name in self.fields.items() if name == api_field)
        return next(columns, api_field)


@dataclass(frozen=True)
class Mapping:
    """A mapping file. place: its path, for people."""

    columns: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    place: str = "mapping"

    @classmethod
    def load(cls, path: str | Path) -> Mapping:
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
        mapping: Mapping | None = None,
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
        return _match(columns, mapping or Mapping(), ignore_unknown, place, from_table)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        reason = f"can't be read: {error.strerror}. Check --mapping."
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = f"can't be read as TOML: {error}."
    raise BadMapping(place=str(path), reason=reason)


def _section(table: AnyMapping[str, Any], name: str, place: str) -> dict[str, Any]:
    section = table.get(name, {})
    if not isinstance(section, dict):
        raise BadMapping(place=place, reason=f"[{name}]: expected a table of names and values.")
    return section


def _flat(section: AnyMapping[str, Any]) -> dict[str, Any]:
    """`note.body = "…"` is a table in a table in TOML; here it is the field `note.body`."""
    flat: dict[str, Any] = {}
    for name, value in section.items():
        if isinstance(value, dict) and name in ACTIVITY_PREFIXES:
            flat |= {f"{name}.{inner}": inner_value for inner, inner_value in value.items()}
        else:
            flat[name] = value
    return flat


def _check_columns(columns: AnyMapping[str, Any], place: str) -> None:
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


def _match(
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
            raise UnknownColumn(place=place, column=column, nearest=field_like(column))
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
