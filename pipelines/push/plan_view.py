"""What a push would change, row by row and in total: collected while it is planned, for people.

Everything here is what the input and HiringCenter hold themselves: it goes to whom asked for it, to
a terminal or a private file, and never into a log, an alert or the ledger.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from rich.table import Table
from rich.text import Text

from connector.errors import printable
from connector.upsert.outbox.matching import ALWAYS_READ, READ_AS, Hasher
from connector.upsert.outbox.merge import CONTACTS, UNKNOWN, FieldAction, FieldMerge, Why, full_name
from connector.upsert.outbox.outbox import PROSPECTS
from connector.upsert.outbox.person_plan import RowPlan
from connector.upsert.plan_file import PlanHeader, PlanWriter, PrivateFile
from connector.upsert.rows.row_checks import Reject
from connector.upsert.rows.write_schema import LABEL_EDITS, MANNERS
from pipelines.running.progress import duration, plural

FIRST_ROWS = 10  # on a terminal, and in the summary
PAGE_ROWS = 10_000
_CHANGES_BEGIN = b'{"row":'
_LONGEST_VALUE = 200  # characters, where people read it
_PAGE_BYTES = 24 * 1024**2
_LABELS_LISTED = 20

Change = dict[str, Any]
"""One row as `--changes` has it; see docs/reference/summaries.md."""


def change_of(planned: RowPlan) -> Change:
    """What is planned for one row; what isn't known, as `old` may not be, has no key."""
    says = orjson.loads(planned.write.body or b"{}")
    is_activity = planned.write.kind != PROSPECTS
    change: Change = {
        "row": planned.row_number,
        "outcome": planned.outcome_shown,
        "prospect_id": planned.prospect_id,
        "name": planned.name or full_name(says) or "",
        "contact": says.get("email") or says.get("phone"),
    }
    merged = planned.merged.fields if planned.merged is not None else ()
    sends = planned.sends_person
    changes = [_sent(each, planned) for each in merged if sends and _is_sent(each)]
    activities = [{"kind": each.kind, **orjson.loads(each.body)} for each in planned.activities]
    if is_activity:
        activities = [{**says, "kind": planned.write.kind}] if sends else []
    elif sends and planned.merged is None:  # a row without contact: it creates a person, whole
        new = {name: value for name, value in says.items() if name not in MANNERS}
        changes = [{"field": name, "new": value} for name, value in new.items()]
    parts = {
        "changes": changes,
        "kept": [_not_sent(each) for each in planned.kept],
        "left_out": [_not_sent(each) for each in merged if each.action is FieldAction.LEAVE_OUT],
        "activities": activities,
        "labels_removed": _labels_removed(merged) if sends else [],
        "looked_up_first": planned.looks,
        "reason": None if planned.sends else planned.reason,
        "note": planned.write.note,
    }
    return change | {name: part for name, part in parts.items() if part}


def _is_sent(merged: FieldMerge) -> bool:
    return merged.action is FieldAction.SEND


def _sent(merged: FieldMerge, planned: RowPlan) -> Change:
    sent: Change = {"field": merged.name, "new": merged.ours}
    if merged.theirs is not UNKNOWN:
        sent["old"] = merged.theirs
    elif planned.looks and planned.outcome != "create":
        sent["waits_for_look_up"] = True
    if merged.why is not Why.CHANGED:
        sent["why"] = str(merged.why)
    if merged.replaces_edit:
        sent["replaces_edit"] = True
    return sent


def _not_sent(merged: FieldMerge) -> Change:
    kept: Change = {"field": merged.name, "input": merged.ours, "why": str(merged.why)}
    if merged.theirs is not UNKNOWN:
        kept["hiringcenter"] = merged.theirs
    elif merged.why is Why.NOT_READ:
        kept["waits_for_look_up"] = True
    return kept


def _labels_removed(merged: Sequence[FieldMerge]) -> list[str]:
    """The labels that would go, as far as it is known which there are."""
    found: list[str] = []
    for each in merged:
        if _is_sent(each) and each.theirs is not UNKNOWN:
            theirs, ours = list(each.theirs or ()), list(each.ours or ())
            if each.name == "labels":
                found += [label for label in theirs if label not in ours]
            elif each.name == "labels_remove":
                found += [label for label in theirs if label in ours]
    return [str(label) for label in found]


# --- what can't be undone -------------------------------------------------------------------------

_IN_WORDS = {
    "created": "{n} created: prospects can't be deleted through this API",
    "not_in_copy": "{n} of people who aren't in the copy and aren't looked up first",
    "activities": "{n} added (notes, tasks, meetings): they can't be deleted through this API",
    "write_only": "{n} in fields that can't be read back ({fields})",
    "only_contact": "{n} of what may be a person's only contact: refused, unless they have another",
    "labels_added": "{n} given labels, which HiringCenter only adds and never removes",
}
_NOUNS = {
    "created": "prospect", "not_in_copy": "change", "activities": "record",
    "write_only": "value", "only_contact": "change", "labels_added": "prospect",
}  # fmt: skip


def _is_write_only(merged: FieldMerge) -> bool:
    """Whether what it was can't be read. In the copy, a field that the contract doesn't name may be
    there or not."""
    return merged.theirs is UNKNOWN and READ_AS.get(merged.name, merged.name) not in (
        *ALWAYS_READ,
        "labels_add",
        "labels_remove",
    )


def _may_lose_contact(sent: Sequence[FieldMerge], fields: Sequence[FieldMerge]) -> bool:
    """Whether no contact that the row names stays as it is, though one of them changes."""
    changed = any(each.name in CONTACTS and each.theirs not in (None, UNKNOWN) for each in sent)
    stays = any(each.name in CONTACTS and not _is_sent(each) and each.ours for each in fields)
    return changed and not stays


# --- collected ------------------------------------------------------------------------------------


@dataclass
class PlanView:
    """Totals, and the first rows that would change.

    plan, changes: files that a plan is written to while it is made. has_page: the first rows are
    wanted for a page. labels_merge: HiringCenter is known to add labels only. looks: people who are
    looked up before they are changed. counts: rows by outcome. worth_a_look: rows that a page would
    show. files: what was written, as the summary names it.
    """

    plan: PlanWriter | None = None
    changes: PrivateFile | None = None
    has_page: bool = False
    labels_merge: bool = False
    looks: int = 0
    kept_rows: int = 0
    worth_a_look: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    files: Mapping[str, str] = field(default_factory=dict)
    fields: Counter[str] = field(default_factory=Counter)
    kept_fields: Counter[str] = field(default_factory=Counter)
    labels_removed: Counter[str] = field(default_factory=Counter)
    cannot_undo: Counter[str] = field(default_factory=Counter)
    write_only: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._first = _First(FIRST_ROWS)
        self._page = _First(PAGE_ROWS)
        self._bad: RowPlan | None = None

    def add(self, planned: RowPlan) -> None:
        """A row that passed its checks."""
        self.counts["rows"] += 1
        self.counts[planned.outcome_shown] += 1
        if planned.outcome in ("rejected", "failed"):
            self._bad = planned  # its reason comes with the reject
            return
        kept, sends = planned.kept, planned.sends
        self.kept_fields.update(each.name for each in kept)
        self.kept_rows += bool(kept)
        if sends:
            self._count(planned)
        if self.plan is not None:
            self.plan.add(planned)
        is_seen = sends or bool(kept) or bool(planned.reason)
        self.worth_a_look += is_seen
        wants_page = self.has_page and is_seen and self._page.takes(planned.row_number)
        wants_first = sends and self._first.takes(planned.row_number)
        if self.changes is not None or wants_page or wants_first:
            self._show(change_of(planned), first=wants_first, page=wants_page)

    def finish(self, files: Mapping[str, str]) -> None:
        """Every row is there: the files are complete. files: their names, for the summary."""
        if self.plan is not None:
            self.plan.sign(self.counts)
        if self.changes is not None:
            self.changes.finish()
        self.files = files

    def reject(self, reject: Reject) -> None:
        """A row whose outcome is bad, whether it failed its checks or what is known of it."""
        change: Change = {"row": reject.row_number, "outcome": "rejected", "prospect_id": None}
        bad, self._bad = self._bad, None
        if bad is not None and bad.row_number == reject.row_number:
            change = change_of(bad)
        else:
            self.counts.update(("rows", "rejected"))
        wants_page = self.has_page and self._page.takes(reject.row_number)
        change["reason"] = printable(reject.reason)
        self.worth_a_look += 1
        self._show(change, first=False, page=wants_page)

    def _show(self, change: Change, *, first: bool, page: bool) -> None:
        if self.changes is not None:
            line = orjson.dumps(change, default=str, option=orjson.OPT_APPEND_NEWLINE)
            self.changes.write(line)
        if first:
            self._first.add(change)
        if page:
            self._page.add(for_people(change))

    def _count(self, planned: RowPlan) -> None:
        fields = planned.merged.fields if planned.merged is not None else ()
        sent = [each for each in fields if _is_sent(each) and planned.sends_person]
        self.looks += planned.looks
        self.labels_removed.update(set(_labels_removed(sent)))
        undo = self.cannot_undo
        is_activity = planned.write.kind != PROSPECTS
        undo["activities"] += len(planned.activities) + is_activity
        undo["created"] += planned.outcome == "create" and not is_activity
        if planned.outcome in ("create", "send"):
            return
        self.fields.update(each.name for each in sent)
        if sent and not planned.looks and all(each.theirs is UNKNOWN for each in fields):
            undo["not_in_copy"] += 1  # who is looked up has a before-image from then
        else:
            lost = [each.name for each in sent if _is_write_only(each)]
            undo["write_only"] += len(lost)
            self.write_only.update(lost)
        undo["only_contact"] += _may_lose_contact(sent, fields)
        if self.labels_merge:
            undo["labels_added"] += any(each.name in ("labels", "labels_add") for each in sent)

    @property
    def first(self) -> list[Change]:
        """The first rows that would be sent."""
        return self._first.sorted()

    @property
    def page_rows(self) -> list[Change]:
        """The first rows that are worth a look, for a page; see `for_people`."""
        return self._page.sorted()

    @property
    def facts(self) -> dict[str, Any]:
        """The plan's part of the summary."""
        undo = {name: self.cannot_undo[name] for name in _IN_WORDS if self.cannot_undo[name]}
        labels = self.labels_removed.most_common(_LABELS_LISTED)
        return {
            "fields": dict(self.fields.most_common()),
            "kept": self.kept_rows,  # those that would be sent, too
            "labels_removed": [{"label": label, "prospects": count} for label, count in labels],
            "cannot_be_undone": undo,
            "first_changes": self.first,
            **self.files,
        }

    def undo_lines(self) -> list[str]:
        """What can't be undone, in words."""
        return [
            text.format(n=plural(count, _NOUNS[name]), fields=", ".join(sorted(self.write_only)))
            for name, text in _IN_WORDS.items()
            if (count := self.cannot_undo[name])
        ]


@dataclass(frozen=True)
class PlanFiles:
    """What a plan is written to. out: a plan file, to be applied. changes: a line for each row.
    html: a page, which the caller writes; `PlanView.page_rows` are kept for it."""

    out: Path | None = None
    changes: Path | None = None
    html: Path | None = None

    def open_view(self, stack: ExitStack, header: PlanHeader, hasher: Hasher) -> PlanView:
        """A view that writes them; closed with `stack`, and gone again unless it was finished."""
        view = PlanView(has_page=self.html is not None)
        if self.out is not None:
            view.plan = stack.enter_context(PlanWriter(self.out, header, hasher))
        if self.changes is not None:
            kind: Any = {"begins": _CHANGES_BEGIN, "what": "a list of changes"}
            file = PrivateFile(self.changes, option="--changes", **kind)
            view.changes = stack.enter_context(file)
        return view

    @property
    def named(self) -> dict[str, str]:
        """What the summary calls them."""
        files = {"plan_file": self.out, "changes_file": self.changes, "html_file": self.html}
        return {name: str(path) for name, path in files.items() if path is not None}


class _First:
    """The rows with the smallest numbers, at most so many: rows don't come in file order."""

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._heap: list[tuple[int, int, Change]] = []

    def takes(self, row_number: int) -> bool:
        return len(self._heap) < self._most or row_number < -self._heap[0][0]

    def add(self, change: Change) -> None:
        size = len(orjson.dumps(change, default=str))
        heapq.heappush(self._heap, (-change["row"], size, change))
        self._bytes += size
        while len(self._heap) > self._most or self._bytes > _PAGE_BYTES:
            self._most = min(self._most, len(self._heap) - 1)
            self._bytes -= heapq.heappop(self._heap)[1]

    def sorted(self) -> list[Change]:
        return [change for _, _, change in sorted(self._heap, key=lambda each: -each[0])]


# --- in words -------------------------------------------------------------------------------------


def for_people(change: Change) -> Change:
    """The same with values as people read them: text, cut where it is long; None is nothing."""
    shown = dict(change)
    for part in ("changes", "kept", "left_out"):
        if part in change:
            shown[part] = [
                {key: in_words(value) if key in _VALUES else value for key, value in each.items()}
                for each in change[part]
            ]
    if "activities" in change:
        shown["activities"] = [
            {"kind": each["kind"], "says": in_words(_essence(each))}
            for each in change["activities"]
        ]
    return {key: in_words(value) if key in _TEXTS else value for key, value in shown.items()}


_VALUES = ("old", "new", "input", "hiringcenter")
_TEXTS = ("name", "contact", "reason", "note", "prospect_id")


def _essence(activity: Mapping[str, Any]) -> Any:
    names = ("body", "note", "task", "meetingType")
    return next((activity[name] for name in names if activity.get(name)), None)


def in_words(value: Any) -> str | None:
    """A field's value as people read it, at most so long; None for nothing."""
    if value is None or value in ("", []):
        return None
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        value = ", ".join(value)
    if not isinstance(value, str):
        value = orjson.dumps(value, default=str).decode()
    text = printable(value)
    left = len(text) - _LONGEST_VALUE
    return text if left <= 0 else f"{text[:_LONGEST_VALUE]}… ({plural(left, 'character')} more)"


def plan_lines(view: PlanView, summary: Mapping[str, Any]) -> Iterator[Any]:
    """What would change: the first rows, then the totals that the counts don't say."""
    first, to_send = view.first, _to_send(summary)
    if first:
        yield _table(first)
        yield from _unknown_values(first)
    if to_send > len(first):
        yield f"… and {plural(to_send - len(first), 'more row')} to send{_where(summary)}."
    if view.fields:
        counts = [f"{name} {count:,}" for name, count in view.fields.most_common()]
        yield f"Fields that change: {', '.join(counts)}."
    if view.kept_fields:
        counts = [f"{name} {count:,}" for name, count in view.kept_fields.most_common()]
        yield f"Fields kept as HiringCenter has them: {', '.join(counts)}."
    if view.labels_removed:
        labels = view.labels_removed.most_common(_LABELS_LISTED)
        named = ", ".join(f"{in_words(label)} ({count:,})" for label, count in labels)
        more = len(view.labels_removed) - len(labels)
        yield f"Labels removed: {named}{f' and {more:,} more' if more > 0 else ''}."
    if undo := view.undo_lines():
        yield f"Can't be undone: {'; '.join(undo)}."
    if (age_s := summary.get("copy_age_s")) is not None:
        yield f"Compared with the copy pulled {duration(age_s)} ago{_looks(view, summary)}."


def _unknown_values(first: Sequence[Change]) -> Iterator[str]:
    """What a question mark in the table stands for."""
    sent = [each for change in first if change["outcome"] == "update"
            for each in change.get("changes", ())]  # fmt: skip
    unknown = [each for each in sent if "old" not in each and each["field"] not in LABEL_EDITS]
    if unknown:
        looks = all(each.get("waits_for_look_up") for each in unknown)
        how = "; it is looked up before it is changed" if looks else ""
        yield f"{_UNKNOWN}: what HiringCenter has there isn't known{how}."


def _looks(view: PlanView, summary: Mapping[str, Any]) -> str:
    if not view.looks:
        return ""
    pages = summary.get("look_ups", view.looks)
    how = "" if pages >= view.looks else f", by a scan of {plural(pages, 'page')}"
    return f"; {_people(view.looks)} looked up before the change{how}"


def _people(count: int) -> str:
    return "1 person is" if count == 1 else f"{count:,} people are"


def _to_send(summary: Mapping[str, Any]) -> int:
    return sum(summary.get(f"would_{name}", 0) for name in ("create", "update", "send"))


def _where(summary: Mapping[str, Any]) -> str:
    files = [summary[name] for name in ("changes_file", "html_file") if name in summary]
    return f": {' and '.join(files)}" if files else "; --html F or --changes F shows them"


_ARROW, _UNKNOWN = " → ", "?"


def _table(first: Sequence[Change]) -> Table:
    """One line for each field that changes; a person who isn't known is one line."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column("row", justify="right", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("who", no_wrap=True, overflow="ellipsis", max_width=22)
    table.add_column("field", no_wrap=True, overflow="ellipsis", max_width=16)
    table.add_column("old → new")  # the only one that Rich may narrow: its cells don't wrap either
    for change in first:
        shown = for_people(change)
        start: Sequence[str] = (
            str(change["row"]), change["outcome"],
            shown.get("name") or shown.get("contact") or shown.get("prospect_id") or "",
        )  # fmt: skip
        for name, text in _field_lines(shown):
            table.add_row(
                *map(Text, start), Text(name), Text(text, no_wrap=True, overflow="ellipsis")
            )
            start = ("", "", "")
    return table


def _field_lines(shown: Change) -> list[tuple[str, str]]:
    changes = shown.get("changes", [])
    added = [
        ("+ " + each["kind"].removesuffix("s"), each["says"] or "")
        for each in shown.get("activities", [])
    ]
    if shown["outcome"] != "update" and changes:
        names = ", ".join(each["field"] for each in changes)
        return [("", names), *added]
    return [(each["field"], _from_to(each)) for each in changes] + added or [("", "")]


def _from_to(each: Mapping[str, Any]) -> str:
    if each["field"] in LABEL_EDITS:
        return f"{'−' if each['field'] == 'labels_remove' else '+'} {each['new']}"
    old = (each["old"] or "(empty)") if "old" in each else _UNKNOWN
    edited = " (edited in HiringCenter)" if each.get("replaces_edit") else ""
    return f"{old}{_ARROW}{each['new'] or '(empty)'}{edited}"
