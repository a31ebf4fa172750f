"""One row of input, checked: a payload that may be sent, or a reject that says what to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Any, NamedTuple

from connector.errors import BadMapping, InputError
from connector.upsert.inputs.rows import InputRow
from connector.upsert.rows.columns import ABSENT_COLUMN, DELETED_COLUMN, ColumnPlan
from connector.upsert.rows.models import ACTIVITIES, ACTIVITY_PREFIXES, PROSPECT
from connector.upsert.rows.payloads import PayloadMaker, Problem, is_empty
from connector.upsert.rows.values import RowContext, time_zone


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
