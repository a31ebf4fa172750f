"""One row of input, checked: a payload that may be sent, or a reject that says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from connector.errors import BadMapping, InputError
from connector.upsert.rows.cells import (
    MAY_BE_ALTERED,
    BadCell,
    InputRow,
    check_code,
    check_readable,
    shown,
    text_of,
    unaltered,
)
from connector.upsert.rows.column_mapping import ABSENT_COLUMN, DELETED_COLUMN, ColumnPlan
from connector.upsert.rows.contact import plain_contact, plain_name
from connector.upsert.rows.write_schema import (
    ACTIVITIES,
    ACTIVITY_PREFIXES,
    CODES,
    LONG_TEXT,
    NOT_CLEARED,
    NOT_TEXT,
    PLAIN_CODES,
    PROSPECT,
    RowContext,
    split_name,
    time_zone,
)


@dataclass(frozen=True, slots=True)
class Activity:
    """A note, task or meeting to create for the row's prospect.

    kind: `notes`, `tasks` or `meetings`. payload: what is posted, beside `prospectId`.
    """

    kind: str
    payload: dict[str, Any]


class ValidRow(NamedTuple):
    """A row that may be sent. payload: what POST /prospects takes; `update` is always in it.

    email, phone: the identities, in the one spelling that all spellings of each share.
    warnings: what was left out or looks odd, for the row's result.
    """

    row_number: int
    payload: dict[str, Any]
    email: str | None
    phone: str | None
    activities: list[Activity]
    warnings: list[str]


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


class Validator:
    """Checks rows against the write schema.

    default_region: ISO 3166 country of phones without a country code. clear_empty: an empty cell
    is sent as an explicit null. mode: `upsert`, `create-only` or `update-only`. zone: IANA name,
    of times without an offset (a meeting's are in its own `timeZone`).

    Raises:
        BadMapping: a constant that the schema refuses.
        InputError: neither an email nor a phone column, in a mode that needs one.
    """

    def __init__(
        self,
        plan: ColumnPlan,
        *,
        default_region: str = "US",
        clear_empty: bool = False,
        mode: str = "upsert",
        zone: str = "UTC",
    ) -> None:
        self._plan, self._mode, self._clear_empty = plan, mode, clear_empty
        self._region, self._zone = default_region, time_zone(zone)
        self._prospect = PayloadMaker.of(plan, PROSPECT, "")
        makers = {
            kind: PayloadMaker.of(plan, ACTIVITIES[kind], f"{prefix}.")
            for prefix, kind in ACTIVITY_PREFIXES.items()
        }
        self._tells_deleted = DELETED_COLUMN in plan.ignored
        self._may_omit = ABSENT_COLUMN in plan.ignored
        self._check_plan()
        self._prospect = self._with_constants(self._prospect)
        self._activities = {
            kind: self._with_constants(one)
            for kind, one in makers.items()
            if one.cells or one.constants
        }

    def check(self, row: InputRow) -> ValidRow | Reject:
        """`row` as it may be sent, or why it may not. Never raises for what a row holds."""
        if row.problem:
            return Reject(row.row_number, row.values, None, row.problem, row.raw)
        context = RowContext(self._region, self._zone)
        problems: list[Problem] = []
        values = _mentioned(row.values) if self._may_omit else row.values
        payload = self._prospect.payload(values, context, problems, clear_empty=self._clear_empty)
        activities = self._made_activities(values, context, problems)
        if payload is not None:
            problems += self._row_problems(payload, values)
            payload["update"] = payload.get("update", True) and self._mode != "create-only"
        if problems or payload is None:
            return Reject(
                row.row_number,
                row.values,
                problems[0].column or None,
                " ".join(map(str, problems)),
                without_values=" ".join(problem.without_value for problem in problems),
            )
        return ValidRow(
            row.row_number,
            payload,
            context.email,
            payload.get("phone"),
            activities,
            context.warnings,
        )

    def _row_problems(self, payload: Mapping[str, Any], values: Mapping[str, Any]) -> list[Problem]:
        """What is wrong with the row as a whole, where each cell is fine."""
        problems = []
        if self._mode != "create-only" and not (payload.get("email") or payload.get("phone")):
            problems.append(
                Problem(
                    " and ".join(map(self._plan.column_of, ("email", "phone"))),
                    "email",
                    "both empty, so every push would create this person again. Fill in one, "
                    "or push with --mode create-only",
                )
            )
        if self._mode == "update-only" and payload.get("update") is False:
            problems.append(
                Problem(
                    self._plan.column_of("update"),
                    "update",
                    "is false, while --mode update-only only updates. Change one of them",
                )
            )
        if self._tells_deleted and not is_empty(values.get(DELETED_COLUMN)):
            problems.append(
                Problem(
                    DELETED_COLUMN,
                    DELETED_COLUMN,
                    "this prospect was deleted in HiringCenter, and a push would create it again. "
                    "Leave such rows out, or empty this cell",
                )
            )
        return problems

    def _made_activities(
        self, values: Mapping[str, Any], context: RowContext, problems: list[Problem]
    ) -> list[Activity]:
        made = []
        for kind, maker in self._activities.items():
            if maker.cells and not maker.filled(values):
                continue
            own = self._in_meeting_zone(maker, values, context, problems)
            payload = maker.payload(values, own, problems)
            if payload is not None:
                made.append(Activity(kind, payload))
        return made

    def _in_meeting_zone(
        self,
        maker: PayloadMaker,
        values: Mapping[str, Any],
        context: RowContext,
        problems: list[Problem],
    ) -> RowContext:
        """`context`, in the zone that the meeting itself names."""
        column = next((column for column, name in maker.cells if name == "timeZone"), None)
        named = values.get(column) if column else maker.constants.get("timeZone")
        if named is None:
            return context
        try:
            return replace(context, zone=time_zone(named))
        except ValueError as error:
            problems.append(Problem.of(column or "meeting.timeZone", "timeZone", error, named))
            return context

    def _check_plan(self) -> None:
        known = {*self._plan.fields.values(), *self._plan.constants}
        if self._mode != "create-only" and not known & {"email", "phone"}:
            raise InputError(
                place=self._plan.place,
                reason="no column for email or phone, so every push would create all rows "
                "again. Add one, or push with --mode create-only.",
            )
        for name in ("email", "phone"):
            if name in self._plan.constants:
                raise self._bad_constant(name, "every row would be the same person. Remove it.")
        if self._mode != "create-only" and {"firstName", "lastName"} <= {*self._plan.constants}:
            reason = (
                "so is firstName: every person that a row matches would get this one name. Remove "
            )
            raise self._bad_constant("lastName", reason + "one, or push with --mode create-only.")
        if self._mode == "update-only" and "update" in self._plan.constants:
            raise self._bad_constant("update", "--mode update-only decides this. Remove it.")

    def _with_constants(self, maker: PayloadMaker) -> PayloadMaker:
        """`maker` with its constants read as cells are, once for all rows."""
        problems: list[Problem] = []
        settled = maker.with_settled_constants(RowContext(self._region, self._zone), problems)
        if "timeZone" in settled.constants and not problems:
            self._in_meeting_zone(replace(settled, cells=()), {}, RowContext("", UTC), problems)
        for problem in problems:
            told = str(problem).removeprefix(f"{problem.column}: ")
            raise self._bad_constant(f"{maker.prefix}{problem.field}", told)
        return settled

    def _bad_constant(self, name: str, reason: str) -> BadMapping:
        return BadMapping(place=self._plan.constants_place, reason=f"[constants] {name}: {reason}")


def _mentioned(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of a rejects file without the columns that its input's row didn't mention, except
    where somebody has filled them in since."""
    try:
        absent = json.loads(values.get(ABSENT_COLUMN) or "[]")
    except (TypeError, ValueError):
        absent = []
    if not isinstance(absent, list):
        return values
    return {
        column: value
        for column, value in values.items()
        if not (is_empty(value) and column in absent)
    }


_SHOWN_CHARS = 60
_NEVER_DATES = PLAIN_CODES | {"firstName", "lastName", "email", "phone"}
_EMPTY_CONSTANT = (
    "is empty, and a constant goes into every row: it would clear this field. Remove it"
)
_US_POSTAL_DIGITS = 5
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
class Problem:
    """What is wrong with one cell. column: as the input names it. reason: and what to do, without
    the cell's value. value, detail: what the cell holds, and more about it that may quote it."""

    column: str
    field: str
    reason: str
    value: Any = None
    detail: str = ""

    @classmethod
    def of(cls, column: str, field: str, error: ValueError, value: Any = None) -> Problem:
        """What `error`, raised by a check of `value`, says about the cell."""
        if not isinstance(error, BadCell):
            return cls(column, field, str(error), value)
        reason = f"{error}. Correct it, or empty the cell"
        return cls(column, field, reason, value, error.detail)

    def __str__(self) -> str:
        """For the rejects file, beside the row."""
        reason = self.reason
        if self.detail:
            what, _, next_step = reason.partition(". ")
            reason = f"{what} ({self.detail}). {next_step}"
        value = "" if self.value is None else f"{_quoted(self.value)} "
        return f"{self.column}: {value}{reason}."

    @property
    def without_value(self) -> str:
        """For everywhere else: the column, what is wrong, and how long the cell is."""
        length = "" if self.value is None else f"({len(shown(self.value))} characters) "
        return f"{self.column}: {length}{self.reason}."


@dataclass(frozen=True)
class PayloadMaker:
    """Makes one kind of payload out of a row.

    cells: (column, field) in the input's order. constants: field → value, for every row.
    prefix: what the kind's fields begin with in a mapping, as in `note.`. full_name: the column
    that holds first and last name together, if one does.
    """

    adapter: TypeAdapter[Any]
    prefix: str
    cells: tuple[tuple[str, str], ...]
    constants: dict[str, Any]
    full_name: str | None = None

    @classmethod
    def of(cls, plan: ColumnPlan, adapter: TypeAdapter[Any], prefix: str) -> PayloadMaker:
        """The part of `plan` whose fields begin with `prefix`; without one, those with no dot."""

        def mine(name: str) -> bool:
            return name.startswith(prefix) if prefix else "." not in name

        fields, constants = plan.fields.items(), plan.constants.items()
        return cls(
            adapter,
            prefix,
            tuple((column, name.removeprefix(prefix)) for column, name in fields if mine(name)),
            {name.removeprefix(prefix): value for name, value in constants if mine(name)},
            None if prefix else plan.full_name,
        )

    def filled(self, values: Mapping[str, Any]) -> bool:
        """Whether any of the row's own cells has something in it."""
        return any(not is_empty(values.get(column)) for column, _ in self.cells)

    def payload(
        self,
        values: Mapping[str, Any],
        context: RowContext,
        problems: list[Problem],
        *,
        clear_empty: bool = False,
    ) -> dict[str, Any] | None:
        """What may be sent; None where a cell is wrong, and then `problems` says which."""
        before = len(problems)
        fields = self._fields(values, context, problems, clear_empty)
        try:
            payload: dict[str, Any] = self.adapter.validator.validate_python(
                fields, context=context
            )
        except ValidationError as error:
            problems += self._problems(error, {problem.field for problem in problems[before:]})
            return None
        if payload.get("labels") == [] and not clear_empty:  # `[]` or `;` is an empty cell too
            del payload["labels"]
        return payload if len(problems) == before else None

    def _fields(
        self,
        values: Mapping[str, Any],
        context: RowContext,
        problems: list[Problem],
        clear_empty: bool,
    ) -> dict[str, Any]:
        """Field → cell, trimmed, without the empty ones.

        A million rows take this path: the common case, text with something in it, comes first
        and calls nothing of ours.
        """
        fields = dict(self.constants)
        for column, name in self.cells:
            value = values.get(column)
            if type(value) is str and (trimmed := value.strip()):
                if trimmed.isascii() and not MAY_BE_ALTERED.match(trimmed):
                    fields[name] = value if name in LONG_TEXT else trimmed
                    continue
            elif value is None or value == "" or is_empty(value):
                # a column that the row doesn't mention says nothing
                if clear_empty and name not in NOT_CLEARED and column in values:
                    fields[name] = None
                continue
            try:
                settled = _settled(value, name)
            except ValueError as error:
                problems.append(Problem.of(column, name, error))
                continue
            if settled == "":  # ="" is an empty cell
                if clear_empty and name not in NOT_CLEARED:
                    fields[name] = None
                continue
            fields[name] = settled
            if name == "postalCode" and len(settled) < _US_POSTAL_DIGITS:
                short = f"{column}: its {len(settled)} characters may lack leading zeros"
                context.warnings.append(short)
        if self.full_name is not None:
            self._add_names(fields, values.get(self.full_name), problems)
        return fields

    def _add_names(self, fields: dict[str, Any], value: Any, problems: list[Problem]) -> None:
        """First and last name out of a full one; where that fails, it is the full name's fault."""
        names = ("?", "?")
        try:
            if is_empty(value):
                raise ValueError(_REASONS["missing"])
            names = split_name(_settled(value, "firstName"))
        except ValueError as error:
            quoted = None if is_empty(value) else value
            problems.append(Problem.of(self.full_name or "", "firstName", error, quoted))
        fields["firstName"], fields["lastName"] = names

    def with_settled_constants(self, context: RowContext, problems: list[Problem]) -> PayloadMaker:
        """This maker, its constants read as cells are; `problems` gets what is wrong with them."""
        names = tuple((name, name) for name in self.constants)
        own = PayloadMaker(self.adapter, self.prefix, names, {})
        found: list[Problem] = []
        settled = own._fields(self.constants, context, found, clear_empty=False)
        for name, value in self.constants.items():
            if _says_nothing(value, name) or settled.get(name, "") is None:
                found.append(Problem(name, name, _EMPTY_CONSTANT))
        own.payload(self.constants, context, found)
        known = {problem.field: problem for problem in reversed(found)}
        problems += [known[name] for name in self.constants if name in known]
        return replace(self, constants=settled)

    def _problems(self, error: ValidationError, known: set[str]) -> Iterator[Problem]:
        for detail in error.errors(include_url=False):
            name = str(detail["loc"][0])
            if name not in known:
                column = next((col for col, field in self.cells if field == name), None)
                yield _problem(column or f"{self.prefix}{name}", name, detail)


def _settled(value: Any, name: str) -> Any:
    """`value` as the models take it, what other programs did to it undone; "" where nothing is
    left. Raises ValueError where it has none, or no text."""
    if isinstance(value, str):
        trimmed = value.strip()
        text = unaltered(trimmed, is_code=name in CODES)
        if name in PLAIN_CODES:
            text = plain_contact(text).replace("\xa0", " ")
            check_code(text)
        elif name in ("firstName", "lastName"):
            text = plain_name(text)
        return value if name in LONG_TEXT and text == trimmed else text
    check_readable(value)
    if name in NOT_TEXT:
        return value
    if isinstance(value, date) and name in _NEVER_DATES:
        raise ValueError(
            "holds a date: a spreadsheet has made one of something else. Format the column as "
            "text, and fill in what was there"
        )
    text = text_of(value)
    if name in PLAIN_CODES:
        check_code(text)
    return text


def is_empty(value: Any) -> bool:
    """Whether a cell has nothing in it: null, or text of white space."""
    return value is None or (isinstance(value, str) and not value.strip())


def _says_nothing(value: Any, name: str) -> bool:
    if name == "labels" and isinstance(value, str):
        return not value.strip(" ;|[]")
    return is_empty(value) or value in ([], {}, '=""')


def _problem(column: str, name: str, detail: Any) -> Problem:
    """What pydantic found wrong with one field."""
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "missing":
        return Problem(column, name, _REASONS[kind])
    if kind == "value_error":
        return Problem.of(column, name, context["error"], value)
    reason = _REASONS[kind].format(**context) if kind in _REASONS else detail["msg"].rstrip(".")
    return Problem(column, name, reason, value)


def _quoted(value: Any) -> str:
    text = shown(value)
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…")
