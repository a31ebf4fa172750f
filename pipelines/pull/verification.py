"""How many rows of the copy are wrong: random rows are looked up by id and compared field by field.

Only what could be compared counts. A row that was edited after the pull began, or that was deleted
since a complete scan has seen it, is late: no pull could have it. A row that the API can't return
is not checked. Neither is right or wrong, so both are left out, and other rows are looked up in
their place. The rows that remain are still a random sample of the rows that can be compared.

Everything is read; nothing but the run's own record, in the ledger, is written.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from connector.errors import (
    ApiError,
    BudgetError,
    ConnectorError,
    Interrupted,
    Refused,
    Unauthorized,
    Unreachable,
    UsageError,
    status_of,
)
from connector.logs import error_facts, get_logger
from connector.settings import Settings
from connector.source.deletions import FAILURES_MAX, Found, LookUps
from connector.source.fields import (
    DELETED_COLUMN,
    FIELD_HINT,
    MORE_COLUMN,
    REPLACEMENT,
    as_ms,
    record_id,
)
from connector.source.row_maker import configured_maker, is_reserved
from connector.webhooks.inbox import account_of, find_inbox
from pipelines.destination.identity import destination_label
from pipelines.pull.run_tables import refuse_other_account
from pipelines.pull.sampling import (
    CONFIDENCE,
    Draw,
    ReadTables,
    Row,
    SampledList,
    note_freshness,
    open_landed,
    read_sample,
    rows_of,
    rows_to_show,
    upper_bound,
    verdict,
)
from pipelines.running.progress import Progress, ProgressOf, ProgressState, RunReport
from pipelines.running.session import Session, open_session

REQUESTS = 300
MAX_WRONG = 0.01
_SPARE_SHARE = 0.1  # of the look-ups: in place of rows that are late or can't be read
_AT_ONCE = 4
_CLOCK_MS = 1000  # the server's clock is known to about a second
_VARIANT = "__v_"
_OTHERS_ROWS = "each of those rows would count as wrong or late. Nothing was compared"
_log = get_logger("verify")


# --- comparing ------------------------------------------------------------------------------------


def is_same(column: str, data_type: str, landed: Any, expected: Any) -> bool:
    """Whether a landed value is what the row maker makes of the record's: JSON by its value, and
    labels in any order."""
    if landed is None or expected is None:
        return landed is None and expected is None
    if data_type == "timestamp":
        return as_ms(landed) == as_ms(expected)
    if data_type == "json":
        return _is_same_json(_parsed(landed), _parsed(expected), in_any_order=column == "labels")
    if data_type == "bool":
        return bool(landed) is bool(expected)
    if data_type == "double":
        return math.isclose(float(landed), expected, rel_tol=1e-14)
    if data_type == "bigint":
        return int(landed) == int(expected)
    replaced = REPLACEMENT + expected[1:] if _is_marked(expected) else expected
    return str(landed) in (expected, replaced)


def _is_marked(text: str) -> bool:
    """Whether dlt would read a type mark into it, so that another character may have landed."""
    return "\uf026" <= text[:1] <= "\uf02e"


def _parsed(value: Any) -> Any:
    """Some databases return JSON parsed."""
    if not isinstance(value, str | bytes):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


def _is_same_json(one: Any, other: Any, *, in_any_order: bool) -> bool:
    def text(value: Any) -> bytes:
        return orjson.dumps(_plain(value), option=orjson.OPT_SORT_KEYS)

    if in_any_order and isinstance(one, list) and isinstance(other, list):
        return sorted(map(text, one)) == sorted(map(text, other))
    return text(one) == text(other)


def _plain(value: Any) -> Any:
    """JSON whose numbers are equal if their values are: some databases keep 1.0 as 1."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _RowComparison:
    """Landed rows of one list next to the records that the API returned, made into rows by the
    maker that a pull uses.

    not_compared: fields that no row can be compared by, since look-ups alone return them, or lists
    alone.
    """

    def __init__(
        self, known: SampledList, records: Sequence[dict[str, Any]], settings: Settings
    ) -> None:
        maker = configured_maker(known.name, known.columns, settings.pull)  # type: ignore[arg-type]
        unique = maker.unique(records)
        self._expected = {row["id"]: row for row in maker.table(unique).to_pylist()}
        self._made: Mapping[str, Mapping[str, Any]] = maker.columns
        self._known, self._more = known, set[str]()
        self.not_compared: set[str] = set()

    def differing(self, landed: Mapping[str, Row]) -> dict[str, list[str]]:
        """Id → names of the columns that differ, for the rows where one does."""
        moved = {id_: _parsed(row.get(MORE_COLUMN)) or {} for id_, row in landed.items()}
        self._more = set().union(*moved.values())
        found = {}
        for id_, row in landed.items():
            if id_ in self._expected:
                names = sorted(self._differences(row, self._expected[id_], moved[id_]))
                found.update({id_: names} if names else {})
        return found

    def _differences(self, landed: Row, expected: Row, moved: Mapping[str, Any]) -> Iterator[str]:
        for name, column in self._made.items():
            if is_reserved(name):
                continue
            field_name = str(column.get(FIELD_HINT, name))
            wanted, is_there = expected.get(name), name in landed
            if landed.get(name) is None and field_name in moved:
                if not _is_same_moved(column["data_type"], moved[field_name], wanted):
                    yield name
            elif not is_there and FIELD_HINT in column and field_name not in self._more:
                self.not_compared.update([name] if wanted is not None else [])
            elif not is_same(name, column["data_type"], landed.get(name), wanted):
                yield name
        for name in landed.keys() - self._made.keys():
            if is_reserved(name) or landed[name] is None:
                continue
            if name.rpartition(_VARIANT)[0] in self._made:
                yield name  # the value is of its column's type by now
            else:
                self.not_compared.add(name)


def _is_same_moved(data_type: str, moved: Any, wanted: Any) -> bool:
    """Whether a value in `_hc_more` is the one that would be in its column; times are there in
    Unix milliseconds."""
    if data_type == "timestamp":
        return bool(moved == as_ms(wanted))
    return _is_same_json(moved, _parsed(wanted) if data_type == "json" else wanted,
                         in_any_order=False)  # fmt: skip


# --- one run --------------------------------------------------------------------------------------


class _LookedUpRow(NamedTuple):
    """The API's answer about one row. error: what ended the run."""

    row: Row
    found: Found | None
    record: dict[str, Any] | None = None
    why: str = ""
    error: ConnectorError | None = None


@dataclass(frozen=True)
class VerifyRequest:
    """What the caller asked for. requests: rows to compare. max_wrong: the share of wrong rows that
    is acceptable."""

    resources: tuple[str, ...]
    requests: int = REQUESTS
    max_wrong: float = MAX_WRONG


class VerifyReport(RunReport):
    """What a verification found."""

    @property
    def needs_a_look(self) -> bool:
        """It isn't shown that few enough rows are wrong."""
        return bool(self.summary["verdict"] != "within")


def verify(
    settings: Settings,
    wanted: VerifyRequest,
    progress_of: ProgressOf | None = None,
    *,
    chance: random.Random | None = None,
) -> VerifyReport:
    """Compare random rows of the destination with what the API returns for their ids.

    chance: chooses them.

    Raises:
        UsageError: nothing has been pulled yet. OtherAccount: the rows are another account's.
        DestinationError: they can't be read.
        MissingKey, BudgetError: no request was sent.
    """
    with open_session(settings, kind="verify") as session:
        progress = progress_of(session) if progress_of else Progress()
        try:
            return _VerifyRun(session, wanted, progress, chance or random.Random()).run()
        finally:
            progress.stop()


class _VerifyRun:
    """The steps of one run, in order, and what they collect for its report."""

    def __init__(
        self, session: Session, wanted: VerifyRequest, progress: Progress, chance: random.Random
    ) -> None:
        self._session, self._wanted, self._progress, self._chance = (
            session, wanted, progress, chance,
        )  # fmt: skip
        self._began_s, self._began_ms = session.clock.monotonic_s(), session.now_ms()
        self._lists = {name: SampledList(name) for name in wanted.resources}
        self._answers: dict[str, list[_LookedUpRow]] = {name: [] for name in wanted.resources}
        self._look_ups = {name: LookUps(session.client, name) for name in wanted.resources}
        self._is_exhausted = False  # every row was looked up

    def run(self) -> VerifyReport:
        error: ConnectorError | None = None
        try:
            with open_landed(self._session.settings) as tables:
                self._read(tables)
            self._count()
            self._look_up()
        except (ApiError, BudgetError, Interrupted) as ended:
            if isinstance(ended, BudgetError) and not self._session.client.requests:
                raise
            error = ended
        summary = self._summary(self._compare(), error)
        self._note(summary)
        return VerifyReport(summary, error)

    def _most(self) -> int:
        spare = math.ceil(self._wanted.requests * _SPARE_SHARE)
        return self._wanted.requests + spare

    def _read(self, tables: ReadTables) -> None:
        """When lists were pulled comes first: rows that land meanwhile are newer than that."""
        refuse_other_account(tables, self._session, _OTHERS_ROWS)
        columns = tables.columns()
        note_freshness(tables, columns, self._lists)
        for known in self._lists.values():
            known.columns = columns.get(known.name, {})
            if "id" not in known.columns or known.pulled_ms is None:
                known.why_not = "no pull of it has ended yet"
                continue
            read_sample(tables, known, self._most(), self._chance)
        if all(known.why_not for known in self._lists.values()):
            names = ", ".join(self._lists)
            raise UsageError(f"No pull of {names} has ended yet. Run `hiringcenter pull` first.")

    def _count(self) -> None:
        """How many rows the API counts, of the lists where it does."""
        self._progress.show(ProgressState("row", 0, self._wanted.requests))
        for known in self._lists.values():
            if known.why_not is None:
                try:
                    page = self._session.client.page(known.name, {"limit": "1"})
                except (Refused, Unauthorized) as error:
                    if error.status == 401:
                        raise
                    continue  # its rows may be readable all the same
                known.total_count = page.total_count

    # --- looking up -----------------------------------------------------------------------------

    def _look_up(self) -> None:
        """Look up rows until enough of them can be compared, or too many can't.

        Raises:
            Unreachable: look-ups of a list fail, after all others were looked up.
            ApiError, BudgetError, Interrupted: what was answered before is kept.
        """
        rows = {known.name: known.rows for known in self._lists.values()}
        draw, settled, asked = Draw(rows, self._chance), 0, 0
        began_s = self._session.clock.monotonic_s()
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="look-up") as threads:
            while settled < self._wanted.requests and asked < self._most():
                most = min(self._wanted.requests - settled, self._most() - asked, _AT_ONCE)
                drawn = [name for _ in range(most) if (name := draw.next()) is not None]
                rows_drawn = [(name, self._lists[name].sample.pop()) for name in drawn
                              if self._lists[name].sample]  # fmt: skip
                if not drawn:
                    self._is_exhausted = True
                    break
                answers = list(threads.map(self._ask, rows_drawn))
                for (name, _), answer in zip(rows_drawn, answers, strict=True):
                    settled += self._take(name, answer, draw)
                    asked += answer.found not in (None, Found.UNASKED, Found.UNASKABLE)
                if error := next((each.error for each in answers if each.error), None):
                    raise error
                self._progress.show(
                    ProgressState(
                        "row", settled, self._wanted.requests,
                        requests_left=self._wanted.requests - settled,
                    )
                )  # fmt: skip
        self._check_missing_calls()
        if failed := self._failed_lists():
            raise Unreachable(
                url_path=f"/{failed[0]}/…",
                tries=FAILURES_MAX,
                tried_s=self._session.clock.monotonic_s() - began_s,
                last=f"{FAILURES_MAX} look-ups in a row failed, so {' and '.join(failed)} can't be "
                "verified now. Other lists can, if the command names them",
            )

    def _failed_lists(self) -> list[str]:
        return [name for name, each in self._look_ups.items() if each.has_given_up]

    def _ask(self, drawn: tuple[str, Row]) -> _LookedUpRow:
        name, row = drawn
        try:
            return _LookedUpRow(row, *self._look_ups[name].ask(str(row["id"])))
        except (ApiError, BudgetError, Interrupted) as error:
            return _LookedUpRow(row, None, error=error)

    def _take(self, name: str, answer: _LookedUpRow, draw: Draw) -> bool:
        """Keep an answer; True if its row can be compared."""
        if answer.found is None:
            return False
        if answer.found in (Found.UNASKABLE, Found.UNASKED):
            no_call = "the API has no call for single records of it"
            self._lists[name].why_not = no_call if answer.found == Found.UNASKABLE else answer.why
            draw.leave_out(name)
            return False
        self._answers[name].append(answer)
        if answer.found == Found.DELETED:
            return self._lists[name].complete_ms is None
        return answer.record is not None and not self._is_edited_since(name, answer.record)

    def _is_edited_since(self, name: str, record: Mapping[str, Any]) -> bool:
        """Whether a record was edited after the last pull of its list began, by the server's clock:
        so no difference is an error of the pull's."""
        edited_ms, pulled_ms = record.get("updatedAt"), self._lists[name].pulled_ms
        if not isinstance(edited_ms, int | float) or pulled_ms is None:
            return False
        ahead_ms = (self._session.client.server_clock_skew_s or 0.0) * 1000
        return edited_ms > pulled_ms + ahead_ms - _CLOCK_MS

    def _check_missing_calls(self) -> None:
        """A server without a call for single records may answer 404, as for a deleted one: where
        that is all it answered, a row that the list has just returned decides."""
        for name, answers in self._answers.items():
            if not answers or any(each.found != Found.DELETED for each in answers):
                continue
            items = self._session.client.page(name, {"limit": "1"}).items
            listed = next((id_ for item in items if (id_ := record_id(item))), None)
            if listed and self._look_ups[name].ask(listed)[0] == Found.DELETED:
                self._lists[name].why_not = "the API has no call for single records of it"
                answers.clear()

    # --- comparing ------------------------------------------------------------------------------

    def _compare(self) -> dict[str, _ListFindings]:
        """What became of each list's rows."""
        found = {name: self._compare_list(name) for name in self._lists}
        doubtful = {name: [*each.wrong] for name, each in found.items() if each.wrong}
        if doubtful and self._session.stop.is_set() is False:
            for name, ids in self._landed_meanwhile(doubtful).items():
                found[name].note_late(ids)
        if people := [*found.get("prospects", _ListFindings()).wrong]:
            found["prospects"].note_late(self._waiting_for_events(people))
        return found

    def _compare_list(self, name: str) -> _ListFindings:
        answers, result, known = self._answers[name], _ListFindings(), self._lists[name]
        alive = {str(each.row["id"]): each for each in answers if each.record is not None}
        gone = [str(each.row["id"]) for each in answers if each.found == Found.DELETED]
        if known.complete_ms is None:
            result.wrong.update({id_: [DELETED_COLUMN] for id_ in gone})
        else:
            result.late = len(gone)
        result.compared = len(gone) - result.late
        result.not_checked = len(answers) - len(alive) - len(gone)
        if alive:
            records = [each.record for each in alive.values() if each.record is not None]
            comparison = _RowComparison(known, records, self._session.settings)
            differing = comparison.differing({id_: each.row for id_, each in alive.items()})
            result.fields_left_out = sorted(comparison.not_compared)
            edited = {
                id_ for id_ in differing if self._is_edited_since(name, alive[id_].record or {})
            }
            result.wrong.update({id_: differing[id_] for id_ in differing.keys() - edited})
            result.late += len(edited)
            result.compared += len(alive) - len(edited)
        return result

    def _landed_meanwhile(self, doubtful: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Rows that a concurrent pull has loaded since they were read here."""
        brought = {}
        with open_landed(self._session.settings) as tables:
            for name, ids in doubtful.items():
                known = self._lists[name]
                now = rows_of(tables, known, ids)
                records = [each.record for each in self._answers[name]
                           if each.record is not None and str(each.row["id"]) in now]  # fmt: skip
                still = set(ids) - now.keys()  # flagged deleted by now
                if records:
                    comparison = _RowComparison(known, records, self._session.settings)
                    differing = comparison.differing(now)
                    asked = {record_id(each) for each in records}
                    still |= {id_ for id_ in now if id_ in asked and id_ not in differing}
                brought[name] = sorted(still)
        return brought

    def _waiting_for_events(self, ids: Sequence[str]) -> set[str]:
        """People whom an event has named, and whom the next drain or pull looks up."""
        session = self._session
        try:
            inbox = find_inbox(session.settings, session.ledger)
        except BudgetError as error:
            _log.warning("verify.no_inbox", why=str(error))
            return set()
        if inbox is None:
            return set()
        with closing(inbox):
            return inbox.waiting_among(account_of(session.settings), ids)

    # --- the report -----------------------------------------------------------------------------

    def _summary(
        self, found: Mapping[str, _ListFindings], error: ConnectorError | None
    ) -> dict[str, Any]:
        session, wanted = self._session, self._wanted
        failed = self._failed_lists()
        checked = [each for each in self._lists.values() if not each.why_not or each.name in failed]
        compared = sum(each.compared for each in found.values())
        wrong = sum(len(each.wrong) for each in found.values())
        left_out = sum(each.late + each.not_checked for each in found.values())
        rows = sum(known.rows for known in checked)
        # of how many rows the compared ones are a sample: not known where some can't be compared
        population = None if left_out or failed else rows
        if self._is_exhausted and not failed:
            population = compared
        at_most = upper_bound(wrong, compared, population)
        share = wrong / compared if compared else 0.0
        facts: dict[str, Any] = {
            "run_id": session.run_id,
            "status": status_of(error),
            "verdict": verdict(at_most, share, wanted.max_wrong),
            "rows": rows,
            "compared": compared,
            "wrong": wrong,
            "at_most": round(at_most, 6),
            "max_wrong": wanted.max_wrong,
            "confidence": 1.0 if population == compared else CONFIDENCE,
            "late": sum(each.late for each in found.values()),
            "not_checked": sum(each.not_checked for each in found.values()),
        }
        if facts["verdict"] == "too_few":
            takes = rows_to_show(wanted.max_wrong, population, share=share)
            facts["takes"] = min(takes, rows)
        facts |= {
            "requests": session.client.requests,
            "seconds": round(session.clock.monotonic_s() - self._began_s, 3),
            "waited_s": round(session.budget.waited_s, 3),
            "resources": {name: self._list_facts(name, each) for name, each in found.items()},
            "differences": [
                {"resource": name, "id": id_, "fields": fields}
                for name, each in found.items()
                for id_, fields in sorted(each.wrong.items())
            ],
        }
        return facts if error is None else facts | {"error": error_facts(error)}

    def _list_facts(self, name: str, found: _ListFindings) -> dict[str, Any]:
        known = self._lists[name]
        facts: dict[str, Any] = {
            "rows": known.rows, "listed": known.listed, "total_count": known.total_count,
            "compared": found.compared, "wrong": len(found.wrong), "late": found.late,
            "not_checked": found.not_checked,
        }  # fmt: skip
        if found.fields_left_out:
            facts["fields_left_out"] = found.fields_left_out
        if known.why_not:
            facts["why_not_checked"] = known.why_not
        return facts

    def _note(self, summary: Mapping[str, Any]) -> None:
        """Add the run to the run history, without ids: what is forgotten mustn't stay there."""
        kept = {name: value for name, value in summary.items() if name != "differences"}
        message = summary.get("error", {}).get("message")
        try:
            self._session.runs.add(
                self._session.run_id, "verify", destination_label(self._session.settings),
                summary["status"], kept, message, started_ms=self._began_ms,
            )  # fmt: skip
        except BudgetError as error:
            _log.warning("verify.not_noted", error=str(error))


@dataclass
class _ListFindings:
    """What became of a list's rows. wrong: id → columns that differ."""

    compared: int = 0
    wrong: dict[str, list[str]] = field(default_factory=dict)
    late: int = 0
    not_checked: int = 0
    fields_left_out: list[str] = field(default_factory=list)

    def note_late(self, ids: Iterable[str]) -> None:
        """These wrong ones are only late."""
        for id_ in ids:
            if self.wrong.pop(id_, None) is not None:
                self.late += 1
                self.compared -= 1
