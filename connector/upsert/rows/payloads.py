"""From cells to one payload: plain text and empties settled here, the rest by the models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from connector.upsert.rows.cells import ERROR_WORDS, check_readable, shown, text_of
from connector.upsert.rows.columns import ColumnPlan
from connector.upsert.rows.models import LONG_TEXT, NOT_CLEARED, NOT_TEXT
from connector.upsert.rows.values import RowContext

_SHOWN_CHARS = 60
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
    """What is wrong with one cell. column: as the input names it. reason: and what to do."""

    column: str
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.column}: {self.reason}."


@dataclass(frozen=True)
class PayloadMaker:
    """Makes one kind of payload out of a row.

    cells: (column, field) in the input's order. constants: field → value, for every row.
    prefix: what the kind's fields begin with in a mapping, as in `note.`.
    """

    adapter: TypeAdapter[Any]
    prefix: str
    cells: tuple[tuple[str, str], ...]
    constants: dict[str, Any]

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
                if trimmed[0] != "#" or trimmed not in ERROR_WORDS:
                    fields[name] = value if name in LONG_TEXT else trimmed
                    continue
                value = trimmed
            if value is None or value == "" or is_empty(value):
                if clear_empty and name not in NOT_CLEARED:
                    fields[name] = None
                continue
            try:
                fields[name] = _settled(value, name)
            except ValueError as error:
                problems.append(Problem(column, name, str(error)))
                continue
            if name == "postalCode" and len(fields[name]) < _US_POSTAL_DIGITS:
                context.warnings.append(f"{column}: {fields[name]} may have lost leading zeros")
        return fields

    def constant_problems(self, context: RowContext) -> Iterator[Problem]:
        """What is wrong with the constants alone."""
        own = PayloadMaker(
            self.adapter, self.prefix, tuple((name, name) for name in self.constants), {}
        )
        problems: list[Problem] = []
        own.payload(self.constants, context, problems)
        yield from (problem for problem in problems if problem.field in self.constants)

    def _problems(self, error: ValidationError, known: set[str]) -> Iterator[Problem]:
        for detail in error.errors(include_url=False):
            name = str(detail["loc"][0])
            if name not in known:
                column = next((col for col, field in self.cells if field == name), None)
                yield Problem(column or f"{self.prefix}{name}", name, _reason(detail))


def _settled(value: Any, name: str) -> Any:
    """`value` as the models take it. Raises ValueError where it has none, or no text."""
    check_readable(value)
    return value if name in NOT_TEXT else text_of(value)


def is_empty(value: Any) -> bool:
    """Whether a cell has nothing in it: null, or text of white space."""
    return value is None or (isinstance(value, str) and not value.strip())


def _reason(detail: Any) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        return _REASONS[kind]
    text = str(context["error"]) if kind == "value_error" else detail["msg"]
    reason = _REASONS[kind].format(**context) if kind in _REASONS else text.rstrip(".")
    return f"{_quoted(detail['input'])} {reason}"


def _quoted(value: Any) -> str:
    text = shown(value)
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…")
