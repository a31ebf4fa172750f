"""Which column of the input becomes which field of the API.

Headers match fields without regard to case, spaces, `_` and `-`. A mapping file (TOML) says what
they can't: `[columns]` input column = API field · `[constants]` API field = value, for every row ·
`[policy]` API field = how it may be written · `ignore = [columns]`. Fields of the activities are
written `note.body`, `task.dueAt` and so on. Exports of well-known address books are recognized by
their own columns.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from connector.errors import (
    BadMapping,
    DoubledColumn,
    InputError,
    NoHeader,
    UnknownColumn,
    did_you_mean,
    listed_columns,
)
from connector.upsert.rows.write_schema import (
    ACTIVITY_FIELDS,
    ACTIVITY_PREFIXES,
    LABEL_EDITS,
    LONGEST_NAME,
    MANNERS,
    PROSPECT_FIELDS,
    PROSPECTS,
    REFERENCE_FIELDS,
    REQUIRED,
    field_called,
    field_like,
    field_meant,
    is_field_word,
    is_full_name,
    normalized,
)

REASON_COLUMN = "_hc_reject_reason"
ROW_COLUMN = "_hc_row"
ABSENT_COLUMN = "_hc_absent"
DELETED_COLUMN = "_hc_deleted_at"
RESULT_COLUMNS = ("_hc_outcome", "_hc_prospect_id", "_hc_message")
_OWN_PREFIXES = ("_hc_", "_dlt_")
_NOT_NAMED = frozenset({REASON_COLUMN, ROW_COLUMN, ABSENT_COLUMN})  # of a rejects file
_DATA = re.compile(r"\s*(?:\S+@\S+\.\S+|[+(]?(?:\d[\s().\-/]*){7,})\s*")  # an email, a phone
_MOST_COMPARED = 200  # columns that are looked at for a field that they resemble
_LONGEST_VALUE = 320  # of an email
_READ_ONLY = frozenset({"id", "createdat", "updatedat", "currentstage", "currentstageid"})
_READ_ONLY_OF_ACTIVITIES = frozenset({
    "id", "createdat", "updatedat", "createdby", "createdbyapi", "createdbyapikeyid",
    "createdbyapikeyname", "assignedby", "completedat",
})  # fmt: skip
_READ_AS_ID, _READ_AS_VERSION = "id", "updatedat"
_SECTIONS = ("columns", "constants", "policy", "ignore")
Policy = Literal["overwrite", "fill_empty", "never"]
_POLICIES: tuple[Policy, ...] = get_args(Policy)


class PulledColumns(NamedTuple):
    """The columns of a pulled table, or of an export of one, that say whom a row is about (`id`),
    which version of them it is (`updated_at`), and whether they were deleted (`_hc_deleted_at`)."""

    id: str
    updated_at: str
    deleted_at: str


@dataclass(frozen=True)
class ColumnPlan:
    """What is read from where. fields: column → API field, in the input's order.

    constants: API field → value, for every row. ignored: columns that aren't read.
    location: the input, for people. left_out: columns that match no field, with the field that each
    looks like. full_name: the column that holds first and last name together. export: the
    program whose export this is. policy: API field → how it may be written. pulled: the input is
    a pulled table, or an export of one. not_taken, hidden: its columns that HiringCenter doesn't
    take, and those whose values pulls don't land.
    """

    location: str
    fields: dict[str, str]
    constants: dict[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    constants_location: str = "[constants]"
    left_out: tuple[tuple[str, str | None], ...] = ()
    full_name: str | None = None
    export: str | None = None
    policy: Mapping[str, Policy] = field(default_factory=dict)
    pulled: PulledColumns | None = None
    not_taken: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()

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
        if self.pulled is not None:
            note = f"columns as a pull lands them: rows are matched by {self.pulled.id!r}"
            if self.not_taken:
                note += f"; left out, since a push can't set them: {', '.join(self.not_taken)}"
            if self.hidden:
                note += f"; left out, since pulls hide their values: {', '.join(self.hidden)}"
            notes.append(note)
        return notes


@dataclass(frozen=True)
class ColumnMapping:
    """A mapping file. location: its path, for people."""

    columns: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    location: str = "mapping"
    policy: dict[str, Policy] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path, kind: str = PROSPECTS) -> ColumnMapping:
        """The mapping in the TOML file at `path`. kind: of the records that rows become.

        Raises:
            BadMapping: no such file, no TOML, an unknown name, an unknown or doubled field, an
                unknown policy.
        """
        location = str(path)
        table = _read_toml(Path(path))
        for name in sorted(table.keys() - {*_SECTIONS}):
            hint = did_you_mean(name, _SECTIONS)
            allowed = "It may hold [columns], [constants], [policy] and ignore."
            reason = f"unknown name {name!r}.{hint} {allowed}"
            raise BadMapping(location=location, reason=reason)
        ignore = table.get("ignore", [])
        if not isinstance(ignore, list) or not all(isinstance(name, str) for name in ignore):
            raise BadMapping(location=location, reason='ignore: expected a list, as in ["Remarks"]')
        columns, constants = (_section(table, name, location) for name in ("columns", "constants"))
        for column, target in columns.items():
            if not isinstance(target, str):
                raise BadMapping(
                    location=location,
                    reason=f"[columns] {column!r}: expected the name of an API field. Quote a "
                    "column whose name holds a dot or a space.",
                )
        for prefix in ACTIVITY_PREFIXES:  # note.body = "…" is a table in a table in TOML
            if isinstance(constants.get(prefix), dict):
                inner = constants.pop(prefix)
                constants |= {f"{prefix}.{name}": value for name, value in inner.items()}
        return cls(
            {name: _known_field(to, location, "columns", kind) for name, to in columns.items()},
            {
                _known_field(to, location, "constants", kind): value
                for to, value in constants.items()
            },
            tuple(ignore),
            location,
            _policies(_section(table, "policy", location), location),
        )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        reason = f"can't be read: {error.strerror}. Check --mapping."
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = f"can't be read as TOML: {error}."
    raise BadMapping(location=str(path), reason=reason)


def _section(table: Mapping[str, Any], name: str, location: str) -> dict[str, Any]:
    section = table.get(name, {})
    if not isinstance(section, dict):
        raise BadMapping(
            location=location, reason=f"[{name}]: expected a table of names and values."
        )
    return dict(section)


def _known_field(name: str, location: str, section: str, kind: str = PROSPECTS) -> str:
    known = field_called(name, kind)
    if known is None:
        like = field_like(name, kind)
        hint = f" Did you mean {like!r}?" if like else ""
        of_kind = "" if kind == PROSPECTS else f" of {kind}"
        raise BadMapping(
            location=location, reason=f"[{section}]: the API has no field {name!r}{of_kind}.{hint}"
        )
    return known


def _policies(section: Mapping[str, Any], location: str) -> dict[str, Policy]:
    """[policy]: what the API calls a field of a person → how it may be written."""
    found: dict[str, Policy] = {}
    for written, policy in section.items():
        name = _known_field(written, location, "policy")
        reason = None
        if name in LABEL_EDITS:
            reason = "write it for labels, which it adds to or removes from."
        elif name in MANNERS:
            reason = "isn't a field of a person, so it has no policy. Remove it."
        elif name not in PROSPECT_FIELDS:
            reason = "notes, tasks and meetings are only created, never changed. Remove it."
        elif policy not in _POLICIES:
            hint = did_you_mean(policy, _POLICIES) if isinstance(policy, str) else ""
            reason = f"expected one of {', '.join(_POLICIES)}.{hint}"
        elif found.get(name, policy) != policy:
            reason = f"is there twice, as {name} and under another spelling. Remove one."
        if reason is not None:
            raise BadMapping(location=location, reason=f"[policy] {written}: {reason}")
        found[name] = policy
    return found


# --- the input's columns --------------------------------------------------------------------


def match_columns(
    columns: Sequence[str],
    mapping: ColumnMapping | None = None,
    *,
    ignore_unknown: bool = False,
    location: str = "input",
    from_table: bool = False,
    hidden: Collection[str] = (),
    kind: str = PROSPECTS,
    key: str | None = None,
) -> ColumnPlan:
    """Where each of `columns` goes.

    from_table: columns that the API only returns (`id`, `created_at` …) are ignored, where
    they are errors in a file. The connector's own (`_hc_…`, `_dlt_…`) are ignored always.
    hidden: names of columns that pulls land as hashes, or not at all. A pulled table, or an export
    of one, is recognized by its columns: there, whatever isn't a field is left out. kind: of the
    records that rows become. key: the column that is a row's identity; it needn't be a field.

    Raises:
        UnknownColumn: a column that neither the mapping nor a field's name explains.
        DoubledColumn: two columns for one field.
        BadMapping: the mapping names a column that the input hasn't.
        InputError: no column gives an activity its fields.
    """
    mapping = mapping or ColumnMapping()
    mapped = _mapped(columns, mapping, location, from_table)
    are_people = kind == PROSPECTS
    if are_people and (pulled := _pulled_columns(columns, mapping, mapped)) is not None:
        return _match_pulled(columns, pulled, mapping, mapped, location, hidden)
    passed = {normalized(name) for name in mapping.ignore}
    if from_table:
        passed |= _READ_ONLY if are_people else _READ_ONLY_OF_ACTIVITIES
    open_columns = [
        column
        for column in columns
        if column not in mapped
        and normalized(column) not in passed
        and not column.lower().startswith(_OWN_PREFIXES)
    ]
    export = export_of(open_columns) if are_people and not from_table else None
    fields, unmatched, foreign = _matched(open_columns, export, {*mapping.constants}, mapped, kind)
    given = {*fields.values(), *mapping.constants}
    full_name = None
    if are_people and not given & {"firstName", "lastName"}:
        full_name = next((name for name in (*unmatched, *foreign) if is_full_name(name)), None)
    left_out = [
        (column, field_like(column, kind) if position < _MOST_COMPARED else None)
        for position, column in enumerate(unmatched)
        if column not in (full_name, key)
    ]
    if left_out and not ignore_unknown:
        raise _unknown(left_out, columns, len(fields), location, from_table)
    fields = {column: fields[column] for column in columns if column in fields}
    _check_doubles(fields, mapping, location)
    _check_required(given, location, kind)
    return ColumnPlan(
        location,
        fields,
        mapping.constants,
        tuple(column for column in columns if column not in fields and column != full_name),
        mapping.location,
        (*left_out, *((column, None) for column in foreign if column != full_name)),
        full_name,
        export.name if export else None,
        mapping.policy,
    )


def _pulled_columns(
    columns: Sequence[str], mapping: ColumnMapping, mapped: Mapping[str, str]
) -> PulledColumns | None:
    """The columns that make an input a pulled table, unless the mapping uses or ignores one."""
    ignored = {normalized(name) for name in mapping.ignore}
    by_name = {normalized(name): name for name in columns if name not in mapped}
    names = (_READ_AS_ID, _READ_AS_VERSION, normalized(DELETED_COLUMN))
    if not all(name in by_name and name not in ignored for name in names):
        return None
    return PulledColumns(*(by_name[name] for name in names))


def _match_pulled(
    columns: Sequence[str],
    pulled: PulledColumns,
    mapping: ColumnMapping,
    mapped: Mapping[str, str],
    location: str,
    hidden: Collection[str],
) -> ColumnPlan:
    """Where the columns of a pulled table go: those that aren't fields are left out."""
    ignored = {normalized(name) for name in mapping.ignore}
    hidden_names = {normalized(name) for name in hidden}
    fields = dict(mapped)
    not_taken, left_out = [], []
    for column in columns:
        name = normalized(column)
        if column in mapped or name in ignored or column in pulled or column in _NOT_NAMED:
            continue
        if name in hidden_names:
            left_out.append(column)
        elif (target := field_called(column)) is not None and not column.lower().startswith(
            _OWN_PREFIXES
        ):
            fields[column] = target
        else:
            not_taken.append(column)
    fields = {column: fields[column] for column in columns if column in fields}
    _check_doubles(fields, mapping, location)
    return ColumnPlan(
        location,
        fields,
        mapping.constants,
        tuple(column for column in columns if column not in fields),
        mapping.location,
        policy=mapping.policy,
        pulled=pulled,
        not_taken=tuple(not_taken),
        hidden=tuple(left_out),
    )


def _mapped(
    columns: Sequence[str], mapping: ColumnMapping, location: str, from_table: bool
) -> dict[str, str]:
    """[columns], by the names that the input itself uses."""
    by_name = {normalized(column): column for column in columns}
    mapped = {}
    for name, target in mapping.columns.items():
        column = name if name in columns else by_name.get(normalized(name))
        if column is None:
            # of a row that may be a person's, only words for fields are shown
            shown = columns if from_table else list(filter(is_field_word, columns))
            reason = f"[columns]: {location} has no column {name!r}.{did_you_mean(name, shown)}"
            raise BadMapping(
                location=mapping.location, reason=f"{reason} Correct the name, or remove its line."
            )
        mapped[column] = target
    return mapped


def _matched(
    columns: Sequence[str],
    export: Export | None,
    given: set[str],
    mapped: dict[str, str],
    kind: str,
) -> tuple[dict[str, str], list[str], list[str]]:
    """(column → field, columns that match none, columns of an export that have no field).

    given: fields that are constants.
    """
    exported = dict(export.targets(columns, {*mapped.values(), *given})) if export else {}
    foreign = [column for column, target in exported.items() if target is None]
    fields = mapped | {column: target for column, target in exported.items() if target}
    others = [column for column in columns if column not in exported]
    fields |= {column: target for column in others if (target := field_called(column, kind))}
    unmatched = []
    for column in others:
        if column not in fields:
            meant = field_meant(column, kind)
            if meant is None or meant in given or meant in fields.values():
                unmatched.append(column)
            else:
                fields[column] = meant
    return fields, unmatched, foreign


def _unknown(
    unknown: Sequence[tuple[str, str | None]],
    columns: Sequence[str],
    matched: int,
    location: str,
    from_table: bool,
) -> InputError:
    """The error for columns that match nothing; quotes them unless they may be personal data.

    A name, a company or a town may look like a field (`Tate` like `state`), or be called as one: a
    first row counts as a header where two of its cells are fields, or half of them.
    """
    is_only = len(columns) == 1 and not from_table
    looks_like_data = (bool(_DATA.fullmatch(name[:_LONGEST_VALUE])) for name in columns)
    data_in = next((at for at, is_data in enumerate(looks_like_data, 1) if is_data), None)
    if not from_table and matched < 2 and (data_in or 2 * matched < len(columns)):
        near_at = {columns.index(column) + 1: near for column, near in unknown if near}
        return NoHeader(
            location=location, lengths=[len(column) for column in columns], data_in=data_in,
            is_only=is_only, matched=matched, near=dict(sorted(near_at.items())),
        )  # fmt: skip
    (column, near), *others = unknown
    return UnknownColumn(
        location=location, column=column, nearest=near, is_only=is_only, others=others
    )


def _check_doubles(fields: Mapping[str, str], mapping: ColumnMapping, location: str) -> None:
    first: dict[str, str] = {}
    for column, name in fields.items():
        if name in first:
            raise DoubledColumn(location=location, columns=(first[name], column), field=name)
        if name in mapping.constants:
            raise BadMapping(
                location=mapping.location,
                reason=f"[constants]: {name!r} is also column {column!r} of {location}. Remove the "
                "constant, or name the column under `ignore`.",
            )
        first[name] = column


def _check_required(given: set[str], location: str, kind: str) -> None:
    wanted = list[str]()
    if kind != PROSPECTS:
        if given.isdisjoint(REFERENCE_FIELDS):
            wanted.append("prospectId, email or phone")
        wanted += sorted(REQUIRED[kind])
    for prefix, added in ACTIVITY_PREFIXES.items():
        if any(name in given for name in ACTIVITY_FIELDS if name.startswith(f"{prefix}.")):
            wanted += [f"{prefix}.{name}" for name in sorted(REQUIRED[added])]
    raise_missing([name for name in wanted if name not in given], location)


def raise_missing(missing: Sequence[str], location: str) -> None:
    """An error if fields that rows need are `missing`."""
    if missing:
        raise InputError(
            location=location,
            reason=f"no column for {', '.join(missing)}, which the API requires. Add the column, "
            "or map one or give a constant in a mapping file (--mapping).",
        )


# --- exports of address books ------------------------------------------------------------------


@dataclass(frozen=True)
class Export:
    """An address book's export. Columns are written as `normalized` makes them.

    signs: it is this one if a column of each of these sets is there. fields: column → API field;
    of several for one field the first counts. others: the columns that have no field.
    """

    name: str
    signs: tuple[frozenset[str], ...]
    fields: dict[str, str]
    others: re.Pattern[str]

    def targets(
        self, columns: Sequence[str], taken: Collection[str]
    ) -> Iterator[tuple[str, str | None]]:
        """(column, its field or None) of the columns that belong to this export. taken: fields
        that something else gives already."""
        by_name = {normalized(name): name for name in columns if len(name) <= LONGEST_NAME}
        given = set(taken)
        for name, target in self.fields.items():
            if name in by_name:
                yield by_name[name], None if target in given else target
                given.add(target)
        for name, column in by_name.items():
            if name not in self.fields and self.others.fullmatch(name):
                yield column, None


_EXPORTS = (
    Export(
        "Google Contacts",
        (frozenset({"email1value", "phone1value", "email1label", "email1type"}),),
        {
            **{"firstname": "firstName", "givenname": "firstName"},
            **{"lastname": "lastName", "familyname": "lastName"},
            **{"email1value": "email", "phone1value": "phone"},
            **{"organizationname": "company", "organization1name": "company"},
            **{"organizationtitle": "title", "organization1title": "title"},
            **{"address1street": "streetAddress", "address1city": "city"},
            **{"address1region": "state", "address1postalcode": "postalCode"},
        },
        re.compile(
            r"(email|phone|address|organization|website|relation|event|customfield|im|jot|"
            r"calendarlink|userdefinedfield|externalid|sipaddress)\d+\w*|.*yomi\w*|phonetic\w+|"
            r"organization(department|yominame|symbol|location|jobdescription|costcenter|type)|"
            r"middlename|additionalname|name(prefix|suffix)|initials|nickname|shortname|maidenname|"
            r"fileas|birthday|gender|location|billinginformation|directoryserver|mileage|"
            r"occupation|hobby|sensitivity|priority|subject|language|photo|groupmembership|labels|"
            r"name"
        ),
    ),
    Export(
        "Outlook",
        (
            frozenset({"emailaddress"}),
            frozenset({"emaildisplayname", "businessphone", "homephone", "email2address"}),
        ),
        {
            "emailaddress": "email",
            **dict.fromkeys(("mobilephone", "primaryphone", "homephone", "businessphone"), "phone"),
            **{"company": "company", "companyname": "company", "jobtitle": "title"},
            **{"homestreet": "streetAddress", "homecity": "city", "homestate": "state"},
            "homepostalcode": "postalCode",
        },
        re.compile(
            r"title|imaddress|middlename|suffix|nickname|\w*yomi|email\w*|(home|business|other|company|car|"
            r"assistant'?s|primary|radio|mobile)(main)?(phone|fax|street|city|state|postalcode|"
            r"country\S*|address\S*|telex|name)\d*|isdn|pager|telex|callback|tty/tddphone|"
            r"department|account|anniversary|billinginformation|birthday|categories|children|"
            r"directoryserver|gender|governmentidnumber|hobby|initials|internetfreebusy|keywords|"
            r"language|location|manager'?sname|mileage|officelocation|organizationalidnumber|"
            r"priority|private|profession|referredby|sensitivity|spouse|schools?|user\d|"
            r"(personal)?webpage|webpage\d"
        ),
    ),
    Export(
        "LinkedIn",
        (frozenset({"connectedon"}), frozenset({"emailaddress", "url", "position"})),
        {"emailaddress": "email", "position": "title"},
        re.compile(r"url|connectedon"),
    ),
    Export(
        "HubSpot",
        (
            frozenset({"recordid", "contactid"}),
            frozenset(
                {"contactowner", "leadstatus", "lifecyclestage", "createdate", "lastactivitydate"}
                | {"associatedcompany", "phonenumber", "marketingcontactstatus"}
            ),
        ),
        {
            **{"phonenumber": "phone", "mobilephonenumber": "phone", "jobtitle": "title"},
            **{"companyname": "company", "associatedcompany": "company"},
            "state/region": "state",
        },
        re.compile(
            r"recordid(\S*)|contactid|contactowner|leadstatus|lifecyclestage|associated\S+|"
            r"marketingcontact\S*|(create|lastactivity|lastmodified|lastcontacted|becamea\S*)date|"
            r"country/region|websiteurl|primarycompany|hubspot\S+|timesincelast\S*"
        ),
    ),
)


def export_of(columns: Sequence[str]) -> Export | None:
    """The program whose export has these columns, if it is a known one."""
    names = {normalized(column) for column in columns}
    return next(
        (each for each in _EXPORTS if all(sign & names for sign in each.signs)),
        None,
    )
