"""One row of input, checked: a payload that may be sent, or a reject that says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from connector.errors import BadMapping, InputError
from connector.upsert.inputs.rows import InputRow
from connector.upsert.rows.columns import DELETED_COLUMN, ColumnPlan
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
    is wrong, and what to do; it quotes cells, so it belongs into files, not into logs.
    raw: the row as it stands in the input, where it couldn't be read as one; for the file alone.
    """

    row_number: int
    values: dict[str, Any]
    column: str | None
    reason: str
    raw: str | None = None


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
        self._activities = {kind: one for kind, one in makers.items() if one.cells or one.constants}
        self._tells_deleted = DELETED_COLUMN in plan.ignored
        self._check_plan()

    def check(self, row: InputRow) -> ValidRow | Reject:
        """`row` as it may be sent, or why it may not. Never raises for what a row holds."""
        if row.problem:
            return Reject(row.row_number, row.values, None, row.problem, row.raw)
        context = RowContext(self._region, self._zone)
        problems: list[Problem] = []
        payload = self._prospect.payload(
            row.values, context, problems, clear_empty=self._clear_empty
        )
        activities = self._made_activities(row.values, context, problems)
        if payload is not None:
            problems += self._row_problems(payload, row.values)
            payload["update"] = payload.get("update", True) and self._mode != "create-only"
        if problems or payload is None:
            reason = " ".join(str(problem) for problem in problems)
            return Reject(row.row_number, row.values, problems[0].column or None, reason)
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
                    "both empty, so that every push would create this person anew. Fill in one, "
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
                    "this prospect was deleted in HiringCenter, and a push would create it anew. "
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
            problems.append(Problem(column or "meeting.timeZone", "timeZone", f"{named!r} {error}"))
            return context

    def _check_plan(self) -> None:
        known = {*self._plan.fields.values(), *self._plan.constants}
        if self._mode != "create-only" and not known & {"email", "phone"}:
            raise InputError(
                place=self._plan.place,
                reason="no column for email or phone, so that every push would create everybody "
                "anew. Add one, or push with --mode create-only.",
            )
        for maker in (self._prospect, *self._activities.values()):
            for problem in maker.constant_problems(RowContext(self._region, self._zone)):
                name = f"{maker.prefix}{problem.field}"
                raise BadMapping(
                    place=self._plan.constants_place,
                    reason=f"[constants] {name}: {problem.reason}.",
                )
