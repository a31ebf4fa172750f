"""One row of input, checked: a payload that may be sent, or a reject that says what to do.

Plain text, empty cells and what other programs did to a cell are settled here, the rest by the
models of the write schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from connector.errors import BadMapping, InputError
from connector.upsert.rows.cells import (
    MAY_BE_ALTERED,
    BadCell,
    InputRow,
    amount,
    check_code,
    check_readable,
    is_date_written_out,
    is_empty,
    shown,
    text_of,
    unaltered,
)
from connector.upsert.rows.column_mapping import (
    ABSENT_COLUMN,
    DELETED_COLUMN,
    ColumnPlan,
    raise_missing,
)
from connector.upsert.rows.contact import (
    e164,
    email_identity,
    plain_contact,
    plain_email,
    plain_name,
    split_name,
)
from connector.upsert.rows.write_schema import (
    ACTIVITIES,
    ACTIVITY_PREFIXES,
    ACTIVITY_ROW_FIELDS,
    CODES,
    LABEL_EDITS,
    LONG_TEXT,
    NOT_CLEARED,
    NOT_TEXT,
    PLAIN_CODES,
    PROSPECT,
    REFERENCE,
    REFERENCE_FIELDS,
    REQUIRED,
    RowContext,
    time_zone,
)

_SHOWN_CHARS = 60
_NEVER_DATES = (PLAIN_CODES - NOT_TEXT) | {"firstName", "lastName", "email", "phone"}
_MADE_A_DATE = (
    "holds a date: a spreadsheet has made one of something else. Format the column as text, and "
    "fill in what was there"
)
_EMPTY_CONSTANT = (
    "is empty, and a constant goes into every row: it would clear this field. Remove it"
)
# postal codes of numbers have five digits in the US, and at least four in these countries
_FOUR_DIGITS = {
    "AF", "AM", "AT", "AU", "BD", "BE", "BG", "CH", "CY", "DK", "GE", "GL", "HU",
    "LI", "LU", "LV", "MK", "NL", "NO", "NZ", "PH", "PY", "SI", "TN", "VE", "ZA",
}  # fmt: skip
# what pydantic calls a problem → what people read
_REASONS = {
    "missing": "is empty, and the API requires it. Fill it in",
    "string_too_long": "has more than {max_length} characters. Shorten it",
    "string_pattern_mismatch": "holds a control character. Remove or retype it",
    "string_unicode": "holds half a character (a lone surrogate). Retype it",
    "too_long": "has more than {max_length} items. Shorten it",
    "dict_type": "isn't an object",
    "list_type": "isn't a list",
    "bool_type": "is neither yes nor no. Write true or false",
}


@dataclass(frozen=True, slots=True)
class Activity:
    """A note, task or meeting to create for the row's prospect.

    kind: `notes`, `tasks` or `meetings`. payload: what is posted, in addition to `prospectId`.
    """

    kind: str
    payload: dict[str, Any]


class ValidRow(NamedTuple):
    """A row that may be sent. payload: what POST /prospects takes, with `update` always in it; of a
    row that is an activity on its own, what is posted in addition to `prospectId`.

    email, phone: the identities, in the one spelling that all spellings of each share.
    warnings: what was left out or looks wrong, for the row's result. prospect_id, exported: of a
    row of a pulled table, whom it is about, and what it was exported as (`Exported`). Of an
    activity, prospect_id or contacts, by field as they were typed: whom it is about; key: what the
    row's key column holds, if there is one.
    """

    row_number: int
    payload: dict[str, Any]
    email: str | None
    phone: str | None
    activities: Sequence[Activity] = ()
    warnings: Sequence[str] = ()
    prospect_id: str | None = None
    exported: bytes | None = None
    contacts: Mapping[str, str] = {}
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that would fail again unchanged. values: as the input held them, by column.

    column: the first column that is wrong, None where the row as a whole is. reason: all that
    is wrong, and what to do; it quotes cells, so it goes into the rejects file alone.
    raw: the row as it stands in the input, where it couldn't be read as one; for the file alone.
    without_values: the reason for logs, ledger and results; "" where `reason` quotes nothing.
    """

    row_number: int
    values: dict[str, Any]
    column: str | None
    reason: str
    raw: str | None = None
    without_values: str = ""

    @property
    def public_reason(self) -> str:
        """The reason as it may be logged and stored."""
        return self.without_values or self.reason


Check = Callable[[InputRow], ValidRow | Reject]
NO_JSON = "a value of this row can't be written as JSON; change it to text or a plain number"


@dataclass(frozen=True, slots=True)
class _Problem:
    """What is wrong with one cell. column: as the input names it. reason: and what to do, without
    the cell's value. value, detail: what the cell holds, and more about it that may quote it."""

    column: str
    field: str
    reason: str
    value: Any = None
    detail: str = ""

    @classmethod
    def of(cls, column: str, field: str, error: ValueError, value: Any = None) -> _Problem:
        """What `error`, raised by a check of `value`, says about the cell."""
        if not isinstance(error, BadCell):
            return cls(column, field, str(error), value)
        reason = f"{error}. Correct it, or empty the cell"
        return cls(column, field, reason, value, error.detail)

    def __str__(self) -> str:
        """For the rejects file, next to the row."""
        reason, value = self.reason, ""
        if self.detail:
            what, _, next_step = reason.partition(". ")
            reason = f"{what} ({self.detail}). {next_step}"
        if self.value is not None:
            text = shown(self.value)
            value = f"{text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + '…'!r} "
        return f"{self.column}: {value}{reason}."

    @property
    def without_value(self) -> str:
        """For everywhere else: the column, what is wrong, and how long the cell is."""
        length = "" if self.value is None else f"({amount(len(shown(self.value)), 'character')}) "
        return f"{self.column}: {length}{self.reason}."


class Validator:
    """Checks rows against the write schema.

    default_region: ISO 3166 country of phones without a country code. clear_empty: an empty cell
    is sent as an explicit null. mode: `upsert`, `create-only` or `update-only`. Times without an
    offset are in UTC; a meeting's are in its own `timeZone`.

    Raises:
        BadMapping: a constant that the schema refuses.
        InputError: neither an email nor a phone column, in a mode that needs one; no column for a
            name, in one that only creates.
    """

    def __init__(
        self,
        plan: ColumnPlan,
        *,
        default_region: str = "US",
        clear_empty: bool = False,
        mode: str = "upsert",
    ) -> None:
        self._plan, self._mode, self._clear_empty = plan, mode, clear_empty
        self._region = default_region
        self._has_deletions = DELETED_COLUMN in plan.ignored
        self._has_absences = ABSENT_COLUMN in plan.ignored
        self._check_plan()
        self._prospect = self._maker("", PROSPECT)
        if mode != "create-only":  # only who is to be created needs a name
            self._prospect = replace(self._prospect, optional=REQUIRED["prospects"])
        makers = {
            kind: self._maker(f"{prefix}.", ACTIVITIES[kind])
            for prefix, kind in ACTIVITY_PREFIXES.items()
        }
        self._activities = {
            kind: maker for kind, maker in makers.items() if maker.cells or maker.constants
        }

    def check(self, row: InputRow, pulled: Mapping[str, Any] | None = None) -> ValidRow | Reject:
        """What may be sent of `row`, or why nothing may.

        pulled: of a row of a pulled table, column → value of the cells that are as the pull landed
        them: the API's own values, which no check refuses.
        """
        if row.problem is not None:
            return Reject(row.row_number, row.values, None, row.problem, row.raw)
        values = _mentioned(row.values) if self._has_absences else row.values
        problems: list[_Problem] = []
        context = RowContext(self._region)
        payload = self._prospect.payload(values, context, problems, self._clear_empty, pulled)
        activities = list(self._made_activities(values, context, problems))
        if payload is not None:
            problems += self._row_problems(payload, values, is_known=pulled is not None)
            payload["update"] = payload.get("update", True) and self._mode != "create-only"
        if problems or payload is None:
            return _rejected(row, problems)
        phone = payload.get("phone")
        warnings = context.warnings
        return ValidRow(row.row_number, payload, context.email, phone, activities, warnings)

    def unchecked(self, row: InputRow, payload: dict[str, Any]) -> ValidRow:
        """A row of a pulled table all of whose cells are as the pull landed them."""
        payload["update"] = self._mode != "create-only"
        return ValidRow(row.row_number, payload, None, None)

    def identities(self, payload: Mapping[str, Any]) -> tuple[str | None, str | None]:
        """Email and phone of a row whose cells weren't all checked, in the one spelling of each;
        None for one that isn't usable."""
        email = phone = None
        with suppress(ValueError):
            email = email_identity(plain_email(payload.get("email") or ""))
        with suppress(ValueError):
            phone = e164(payload.get("phone") or "", self._region)[0]
        return email, phone

    def _row_problems(
        self, payload: Mapping[str, Any], values: Mapping[str, Any], *, is_known: bool
    ) -> Iterator[_Problem]:
        """What is wrong with the row as a whole, where each cell is fine. is_known: it is a row of
        a pulled table, about a prospect that its id names."""
        column_of = self._plan.column_of
        has_contact = is_known or payload.get("email") or payload.get("phone")
        if self._mode != "create-only" and not has_contact:
            yield _Problem(
                f"{column_of('email')} and {column_of('phone')}",
                "email",
                "both empty, so every push would create this person again. Fill in one, or push "
                "with --mode create-only",
            )
        yield from self._label_problems(payload)
        if payload.get("update") is False and not is_known:  # it only creates
            for name in sorted(REQUIRED["prospects"] - payload.keys()):
                column = self._plan.full_name or column_of(name)
                yield _Problem(column, name, _REASONS["missing"])
        if self._mode == "update-only" and payload.get("update") is False:
            reason = "is false, while --mode update-only only updates. Change one of them"
            yield _Problem(column_of("update"), "update", reason)
        if self._has_deletions and not is_known and not is_empty(values.get(DELETED_COLUMN)):
            yield _Problem(
                DELETED_COLUMN,
                DELETED_COLUMN,
                "this prospect was deleted in HiringCenter, and a push would create it again. "
                "Leave such rows out, or empty this cell",
            )

    def _label_problems(self, payload: Mapping[str, Any]) -> Iterator[_Problem]:
        """Labels that the row writes in two ways."""
        edits = [name for name in LABEL_EDITS if name in payload]
        if edits and "labels" in payload:
            column = self._plan.column_of(edits[0])
            reason = (
                f"is filled, and so is {self._plan.column_of('labels')}, which means exactly these "
                "labels. Empty one of the two"
            )
            yield _Problem(column, edits[0], reason)
        elif len(edits) == 2 and not {*payload[edits[0]]}.isdisjoint(payload[edits[1]]):
            columns = f"{self._plan.column_of(edits[0])} and {self._plan.column_of(edits[1])}"
            yield _Problem(columns, edits[0], "hold the same label. Decide for one of the two")

    def _made_activities(
        self, values: Mapping[str, Any], context: RowContext, problems: list[_Problem]
    ) -> Iterator[Activity]:
        """Those with a filled cell; where an activity has constants alone, every row gets it."""
        for kind, maker in self._activities.items():
            if maker.cells and all(is_empty(values.get(column)) for column in maker.cells.values()):
                continue
            zoned = _in_own_zone(maker, values, context, problems)
            payload = maker.payload(values, zoned, problems)
            if payload is not None:
                yield Activity(kind, payload)

    def _check_plan(self) -> None:
        constants = self._plan.constants.keys()
        known = {*self._plan.fields.values(), *constants}
        is_pulled = self._plan.pulled is not None
        if self._mode != "create-only" and not is_pulled and not known & {"email", "phone"}:
            raise InputError(
                location=self._plan.location,
                reason="no column for email or phone, so every push would create all rows "
                "again. Add one, or push with --mode create-only.",
            )
        if self._mode == "create-only" and not is_pulled and self._plan.full_name is None:
            raise_missing(sorted(REQUIRED["prospects"] - known), self._plan.location)
        for name in sorted(constants & {"email", "phone"}):
            raise self._bad_constant(name, "every row would be the same person. Remove it.")
        if self._mode != "create-only" and {"firstName", "lastName"} <= constants:
            reason = (
                "so is firstName: every person that a row matches would get this one name. Remove "
                "one, or push with --mode create-only."
            )
            raise self._bad_constant("lastName", reason)
        if self._mode == "update-only" and "update" in constants:
            raise self._bad_constant("update", "--mode update-only decides this. Remove it.")

    def _maker(
        self, prefix: str, adapter: TypeAdapter[Any], *, without: Collection[str] = ()
    ) -> _PayloadMaker:
        """What makes the payloads of the fields that begin with `prefix`; its constants are read as
        cells are, once for all rows."""
        maker = _PayloadMaker.of(self._plan, adapter, prefix)
        for name in without:
            maker.cells.pop(name, None)
            maker.constants.pop(name, None)
        problems: list[_Problem] = []
        maker = maker.with_settled_constants(RowContext(self._region), problems)
        if "timeZone" in maker.constants and not problems:
            _in_own_zone(replace(maker, cells={}), {}, RowContext(""), problems)
        for problem in problems:
            reason = str(problem).removeprefix(f"{problem.column}: ")
            raise self._bad_constant(f"{prefix}{problem.field}", reason)
        return maker

    def _bad_constant(self, name: str, reason: str) -> BadMapping:
        return BadMapping(
            location=self._plan.constants_location, reason=f"[constants] {name}: {reason}"
        )


class ActivityValidator(Validator):
    """Checks rows that are notes, tasks or meetings of prospects who exist.

    kind: which of them. key: the column that is a row's identity, if one is.

    Raises:
        BadMapping: a constant that the schema refuses.
    """

    def __init__(
        self,
        plan: ColumnPlan,
        kind: str,
        *,
        key: str | None = None,
        default_region: str = "US",
    ) -> None:
        self._plan, self._key = plan, key
        self._region = default_region
        self._has_deletions = DELETED_COLUMN in plan.ignored
        self._has_absences = ABSENT_COLUMN in plan.ignored
        self._activity = self._maker("", ACTIVITIES[kind], without=REFERENCE_FIELDS)
        self._person = self._maker("", REFERENCE, without=ACTIVITY_ROW_FIELDS[kind][3:])

    def check_activity(self, row: InputRow) -> ValidRow | Reject:
        """What may be sent of `row`, or why nothing may."""
        if row.problem is not None:
            return Reject(row.row_number, row.values, None, row.problem, row.raw)
        values = _mentioned(row.values) if self._has_absences else row.values
        problems: list[_Problem] = []
        context = RowContext(self._region)
        person = self._person.payload(values, context, problems)
        zoned = _in_own_zone(self._activity, values, context, problems)
        payload = self._activity.payload(values, zoned, problems)
        key = self._key_of(values, problems)
        if person == {}:
            problems.append(self._no_reference())
        if self._has_deletions and not is_empty(values.get(DELETED_COLUMN)):
            reason = "this was deleted in HiringCenter. Leave such rows out, or empty this cell"
            problems.append(_Problem(DELETED_COLUMN, DELETED_COLUMN, reason))
        if problems or payload is None or person is None:
            return _rejected(row, problems)
        contacts: dict[str, str] = {
            name: person[name] for name in ("email", "phone") if name in person
        }
        return ValidRow(
            row.row_number,
            payload,
            context.email,
            contacts.get("phone"),
            warnings=context.warnings,
            prospect_id=person.get("prospectId"),
            contacts=contacts,
            key=key,
        )

    def _key_of(self, values: Mapping[str, Any], problems: list[_Problem]) -> str | None:
        if self._key is None:
            return None
        value = values.get(self._key)
        try:
            key = "" if is_empty(value) else str(_settled(value, "prospectId"))
        except ValueError as error:
            problems.append(_Problem.of(self._key, self._key, error))
            return None
        if not key:
            reason = "is empty, and --key makes it the row's identity. Fill it in"
            problems.append(_Problem(self._key, self._key, reason))
        return key

    def _no_reference(self) -> _Problem:
        columns = [column for column, name in self._plan.fields.items() if name in REFERENCE_FIELDS]
        are = " and ".join(columns)
        empty = "are all empty" if len(columns) > 1 else "is empty"
        return _Problem(
            are, "prospectId", f"{empty}, so whom this is about isn't known. Fill one in"
        )


def _rejected(row: InputRow, problems: Sequence[_Problem]) -> Reject:
    return Reject(
        row.row_number,
        row.values,
        problems[0].column or None,
        " ".join(map(str, problems)),
        without_values=" ".join(problem.without_value for problem in problems),
    )


def _mentioned(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of a rejects file without the columns that its input's row didn't mention, except
    where they were filled in since."""
    try:
        absent = json.loads(values.get(ABSENT_COLUMN) or "[]")
    except (TypeError, ValueError):
        return values
    if not isinstance(absent, list):
        return values
    return {
        column: value
        for column, value in values.items()
        if not (is_empty(value) and column in absent)
    }


def _in_own_zone(
    maker: _PayloadMaker,
    values: Mapping[str, Any],
    context: RowContext,
    problems: list[_Problem],
) -> RowContext:
    """`context`, in the zone that the meeting itself names."""
    column = maker.cells.get("timeZone")
    named = values.get(column) if column else maker.constants.get("timeZone")
    if named is None:
        return context
    try:
        return replace(context, zone=time_zone(named))
    except ValueError as error:
        problems.append(_Problem.of(column or "meeting.timeZone", "timeZone", error, named))
        return context


@dataclass(frozen=True)
class _PayloadMaker:
    """Makes one kind of payload out of a row.

    cells: field → its column, in the input's order. constants: field → value, for every row.
    prefix: what the kind's fields begin with in a mapping, as in `note.`. full_name: the column
    that holds first and last name together, if one does. optional: fields that the API requires
    and a row needn't have.
    """

    adapter: TypeAdapter[Any]
    prefix: str
    cells: dict[str, str]
    constants: dict[str, Any]
    full_name: str | None = None
    optional: frozenset[str] = frozenset()

    @classmethod
    def of(cls, plan: ColumnPlan, adapter: TypeAdapter[Any], prefix: str) -> _PayloadMaker:
        """The part of `plan` whose fields begin with `prefix`; without one, those with no dot."""

        def ours(by_field: Mapping[str, Any]) -> dict[str, Any]:
            return {
                name.removeprefix(prefix): value
                for name, value in by_field.items()
                if (name.startswith(prefix) if prefix else "." not in name)
            }

        cells = ours({name: column for column, name in plan.fields.items()})
        full_name = None if prefix else plan.full_name
        return cls(adapter, prefix, cells, ours(plan.constants), full_name)

    def with_settled_constants(
        self, context: RowContext, problems: list[_Problem]
    ) -> _PayloadMaker:
        """This maker, its constants read as cells are; `problems` gets what is wrong with them."""
        names = {name: name for name in self.constants}
        of_constants = _PayloadMaker(self.adapter, self.prefix, names, {})
        found: list[_Problem] = []
        settled = of_constants._fields(self.constants, context, found, clear_empty=False)
        for name, value in self.constants.items():
            if _is_blank(value, name) or settled.get(name, "") is None:
                found.append(_Problem(name, name, _EMPTY_CONSTANT))
        of_constants.payload(self.constants, context, found)
        by_field = {problem.field: problem for problem in reversed(found)}
        problems += [by_field[name] for name in self.constants if name in by_field]
        return replace(self, constants=settled)

    def payload(
        self,
        values: Mapping[str, Any],
        context: RowContext,
        problems: list[_Problem],
        clear_empty: bool = False,
        pulled: Mapping[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """What may be sent; None where a cell is wrong, and then `problems` says which. pulled: see
        `Validator.check`; whom such a row is about is known, so it needs no name."""
        before, optional = len(problems), self.optional
        if pulled is not None:
            values = {column: value for column, value in values.items() if column not in pulled}
            optional = REQUIRED["prospects"]
        fields = self._fields(values, context, problems, clear_empty)
        absent = optional - fields.keys()
        for name in absent:
            fields[name] = "?"
        try:
            payload: dict[str, Any] = self.adapter.validator.validate_python(
                fields, context=context
            )
        except ValidationError as error:
            known = {problem.field for problem in problems[before:]}
            for detail in error.errors(include_url=False):
                name = str(detail["loc"][0])
                if name not in known:
                    column = self.cells.get(name, f"{self.prefix}{name}")
                    problems.append(_model_problem(column, name, detail))
            return None
        for name in ("labels", *LABEL_EDITS):  # `[]` or `;` is an empty cell too
            if payload.get(name) == [] and not (clear_empty and name == "labels"):
                del payload[name]
        for name in absent:
            del payload[name]
        if pulled is not None:
            fields_pulled = {name: pulled.get(column) for name, column in self.cells.items()}
            payload |= {name: value for name, value in fields_pulled.items() if value is not None}
        return payload if len(problems) == before else None

    def _fields(
        self,
        values: Mapping[str, Any],
        context: RowContext,
        problems: list[_Problem],
        clear_empty: bool,
    ) -> dict[str, Any]:
        """Field → cell, trimmed, without the empty ones.

        A million rows take this path: the common case, text with something in it, comes first
        and calls nothing of ours.
        """
        fields = dict(self.constants)
        for name, column in self.cells.items():
            value = values.get(column)
            if (
                type(value) is str
                and (trimmed := value.strip())
                and trimmed.isascii()
                and not MAY_BE_ALTERED.match(trimmed)
            ):
                fields[name] = value if name in LONG_TEXT else trimmed
                continue
            settled: Any = ""
            if not is_empty(value):
                try:
                    settled = _settled(value, name)
                except ValueError as error:
                    problems.append(_Problem.of(column, name, error))
                    continue
            if settled != "":  # ="" is an empty cell, too
                fields[name] = settled
            elif clear_empty and name not in NOT_CLEARED and column in values:
                fields[name] = None  # a column that the row doesn't mention says nothing
        code = fields.get("postalCode")
        least = 4 if context.region in _FOUR_DIGITS else 5
        if type(code) is str and len(code) < least and code.isdecimal():
            short = f"its {amount(len(code), 'digit')} may lack leading zeros"
            context.warnings.append(f"{self.cells.get('postalCode', 'postalCode')}: {short}")
        full_name = None if self.full_name is None else values.get(self.full_name)
        if self.full_name is not None and not (self.optional and is_empty(full_name)):
            names = self._split_full_name(full_name, problems)
            fields["firstName"], fields["lastName"] = names
        return fields

    def _split_full_name(self, value: Any, problems: list[_Problem]) -> tuple[str, str]:
        """First and last name out of a full one; where that fails, it is the full name's fault."""
        try:
            if is_empty(value):
                raise ValueError(_REASONS["missing"])
            return split_name(_settled(value, "firstName"))
        except ValueError as error:
            quoted = None if is_empty(value) else value
            problems.append(_Problem.of(self.full_name or "", "firstName", error, quoted))
            return "?", "?"


def _settled(value: Any, name: str) -> Any:
    """`value` as the models take it, what other programs did to it undone; "" where nothing is
    left. Raises ValueError where it has none, or no text."""
    if isinstance(value, str):
        trimmed = value.strip()
        text = unaltered(trimmed, is_code=name in CODES)
        if name in _NEVER_DATES and is_date_written_out(text):
            raise ValueError(_MADE_A_DATE)
        if name in PLAIN_CODES:
            text = plain_contact(text).replace("\xa0", " ")
            if name not in NOT_TEXT:  # a date such as 31.03.2025 has a check of its own
                check_code(text)
        elif name in ("firstName", "lastName"):
            text = plain_name(text)
        return value if name in LONG_TEXT and text == trimmed else text
    check_readable(value)
    if name in NOT_TEXT:
        return value
    if isinstance(value, date) and name in _NEVER_DATES:
        raise ValueError(_MADE_A_DATE)
    text = text_of(value)
    if name in PLAIN_CODES:
        check_code(text)
    return text


def _is_blank(value: Any, name: str) -> bool:
    if name in ("labels", *LABEL_EDITS) and isinstance(value, str):
        return not value.strip(" ;|[]")
    return is_empty(value) or value in ([], {}, '=""')


def _model_problem(column: str, name: str, detail: Any) -> _Problem:
    """What pydantic found wrong with one field."""
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "missing":
        return _Problem(column, name, _REASONS[kind])
    if kind == "value_error":
        return _Problem.of(column, name, context["error"], value)
    reason = _REASONS[kind].format(**context) if kind in _REASONS else detail["msg"].rstrip(".")
    return _Problem(column, name, reason, value)
