"""From cells to one payload: plain text and empties settled here, the rest by the models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from pydantic import TypeAdapter, ValidationError

from connector.upsert.rows.cells import (
    MAY_BE_ALTERED,
    BadCell,
    check_code,
    check_readable,
    shown,
    text_of,
    unaltered,
)
from connector.upsert.rows.columns import ColumnPlan
from connector.upsert.rows.contact import plain_contact, plain_name
from connector.upsert.rows.models import CODES, LONG_TEXT, NOT_CLEARED, NOT_TEXT, PLAIN_CODES
from connector.upsert.rows.values import RowContext, split_name

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
