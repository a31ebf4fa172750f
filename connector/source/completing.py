"""Further requests for a list that ended, or may have ended, before all of it was read.

A list that ends in a full page without proof that it is the last (no page token, no matching
count) is probed once: the same page again, half as long. If the server then names a next page, it
does so whenever there is more, and the end was real; this works whatever the largest `limit` is,
for tokens and for `startAfter`. If it doesn't, it never does: then more rows are requested by a
bigger `limit`, by the time of the last row, and, of prospects, in slices.

Slices: prospects have no documented page token. If the server doesn't return all rows at once
either, they are requested by stage and by label, as learned from the rows seen; rows with neither,
and incomplete slices, by title, company, name and parts of names; what is still incomplete is
divided by a second filter. All of these are tried in turn, since it isn't known which one helps.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from math import inf
from typing import Any

from connector.api.client import ApiClient
from connector.api.envelopes import ENDPOINTS
from connector.errors import EndlessList, Refused, UnexpectedAnswer, Unreachable
from connector.logs import get_logger
from connector.source.fields import split_malformed
from connector.source.list_pages import (
    LIMIT_MAX,
    LIMITS,
    ListPages,
    PageTokenLost,
    Params,
    Sightings,
    Step,
)

SLICED = frozenset({"prospects"})  # lists whose filters `Slices` knows
MARGIN = 50  # rows that may be added meanwhile
MAXIMA = frozenset({*LIMITS, 250, 300, 400, 2000, 2500, 5000, 10_000})  # of servers
PATIENCE = 8  # requests without new rows, if little is likely to be missing
_WIDER = 10
log = get_logger("source")


def may_be_cut(step: Step, seen: Sightings) -> bool:
    """Whether the last page may be incomplete, whatever the server says.

    It is full (as long as requested or longer, as the pages before, or a usual maximum), or the
    server announces a next page that can't be requested.
    """
    is_counted = seen.total_count is not None and not seen.is_miscounted()
    if step.page.next_params is not None or is_counted:
        return False
    if step.page.cut is not None:
        return True
    rows = len(step.page.items)
    return step.is_full or (step.page_token is None and (rows > step.limit or rows in MAXIMA))


class Completion:
    """The rows of a list beyond `last`, its last page. Iterate it once, noting each step in `seen`.

    params: the list's filters. slices: learned from its rows. known_gap: how many of the rows that
    the server counts the last scan could not find. is_proven: afterwards, whether the list's end is
    proven. helped: whether there were rows that the pages before didn't have.
    """

    def __init__(
        self,
        client: ApiClient,
        resource: str,
        params: Params,
        *,
        seen: Sightings,
        last: Step,
        slices: Slices,
        known_gap: int = 0,
    ) -> None:
        self._client, self._resource, self._params = client, resource, dict(params)
        self._known_gap = known_gap
        self._seen, self._last, self._slices = seen, last, slices
        self._listed = seen.listed()
        self.is_proven = False

    @property
    def helped(self) -> bool:
        return self._seen.listed() > self._listed

    def __iter__(self) -> Iterator[Step]:
        if self._seen.missing():
            yield from self._counted()
            if self._seen.missing() or not may_be_cut(self._last, self._seen):
                self.is_proven = not self._seen.missing()
                return
        yield from self._uncounted()

    def _counted(self) -> Iterator[Step]:
        """Until as many rows are read as the server counts.

        A list that ended in a short page was read to its end: any further rows that it counts are
        hidden, or were missed while rows moved. Then only a few requests are worthwhile.
        """
        is_short = not (self._last.is_full or self._last.page.cut)
        is_cut = not is_short or not (self._last.page_token or self._is_gap_small())
        last = self._last
        for step in self._while_productive(self._all_at_once()):
            self._seen.note_total(step.page.total_count)
            yield step
            last = step
            if not self._seen.missing():
                break
        if is_cut and self._seen.missing():
            slices = self._in_slices(last.limit)
            for step in self._while_productive(slices, gap=self._known_gap):
                yield step
                if not self._seen.missing():
                    return
        self._last = last

    def _is_gap_small(self) -> bool:
        return self._seen.missing() <= max(MARGIN, self._seen.listed() // 10)

    def _while_productive(self, steps: Iterator[Step], *, gap: float = inf) -> Iterator[Step]:
        """Steps while some of them bring new rows, or more than `gap` rows are missing."""
        barren, listed = 0, self._seen.listed()
        for step in steps:
            yield step
            is_worth_it = self._seen.listed() > listed or self._seen.missing() > gap
            barren = 0 if is_worth_it else barren + 1
            listed = self._seen.listed()
            if barren >= PATIENCE:
                return

    def _all_at_once(self) -> Iterator[Step]:
        """The list again, in the biggest pages that the server allows."""
        total_count = self._seen.total_count or 0
        limit = min(LIMIT_MAX, total_count + max(MARGIN, total_count // 50))
        log.info("source.all_at_once", resource=self._resource, of=total_count, limit=limit)
        try:
            yield from self._listing(page_size=limit)
        except (PageTokenLost, EndlessList):
            log.info("source.page_token_lost", resource=self._resource)
        except Unreachable as error:  # too much for one answer; slices are smaller
            log.warning("source.all_at_once_failed", resource=self._resource, last=error.last)

    def _uncounted(self) -> Iterator[Step]:
        if self._is_followed_when_halved():
            self.is_proven = True
            return
        limit = self._last.limit
        if self._last.page_token is None:
            for step in self._with_bigger_limits():
                limit = step.limit
                yield step
        if not self.is_proven:
            yield from self._by_time()
        if not self.is_proven and self._resource in SLICED and not self._params:
            # these find more rows, if there are any, but can't prove that there are none
            yield from self._while_productive(self._in_slices(limit))

    def _is_followed_when_halved(self) -> bool:
        """Whether the server names a next page for the first half of the last one, or returns all
        of that again: more rows than requested, whatever is requested, are all there are."""
        token = self._last.page_token
        half = max(1, len(self._last.page.items) // 2)
        try:
            step = next(iter(self._listing(page_size=half, next_params=token)))
        except (PageTokenLost, Refused):
            return "pageToken" in (token or {})  # which the pages before named
        rows = len(self._last.page.items)
        is_limit_ignored = rows > self._last.limit and len(step.page.items) >= rows
        return step.page.next_params is not None or is_limit_ignored

    def _with_bigger_limits(self) -> Iterator[Step]:
        """The list again with growing limits, until a page isn't full."""
        rows = len(self._last.page.items)
        limit = max(rows, self._last.limit) * _WIDER
        while limit <= LIMIT_MAX:
            try:
                step = next(iter(self._listing(page_size=limit)))
            except (Refused, Unreachable, UnexpectedAnswer):  # too much for one answer
                return
            yield step
            more = len(step.page.items)
            is_end = step.page.cut is None and more not in MAXIMA
            self.is_proven = is_end and rows < more < step.limit
            if more <= rows or more < step.limit or step.limit < limit:
                return
            rows, limit = more, limit * _WIDER

    def _by_time(self) -> Iterator[Step]:
        """After the last row, for servers that take `startAfter` and never name a page token."""
        order = ENDPOINTS[self._resource].order
        field = ENDPOINTS[self._resource].order_by or self._seen.order
        step = self._last
        while field is not None:
            times = [ms for item in step.page.items if (ms := _ms(item, field)) is not None]
            if not times:
                return
            last_ms = times[-1] + (-1 if order == "ascending" else 1)
            listed = self._seen.listed()
            try:
                token = {"startAfter": str(last_ms)}
                following = next(iter(self._listing(page_size=step.limit, next_params=token)))
            except (PageTokenLost, Refused):
                return
            yield following
            if self._seen.listed() == listed:
                # known rows: those that share the last millisecond, or the first page again
                is_end = following.page.cut is None
                self.is_proven = is_end and len(following.page.items) < len(step.page.items)
                return
            if not (following.page.next_params or following.is_full or following.page.cut):
                self.is_proven = True
                return
            step = following

    def _in_slices(self, limit: int) -> Iterator[Step]:
        """Slice after slice; the caller stops when nothing is missing."""
        if self._resource not in SLICED or self._params:
            return
        while (piece := self._slices.next()) is not None:
            try:
                yield from self._slice(piece, limit)
            except (PageTokenLost, EndlessList):
                log.info("source.page_token_lost", resource=self._resource)
            except Refused as refused:
                log.warning("source.slice_refused", resource=self._resource, status=refused.status)

    def _slice(self, piece: Slice, limit: int) -> Iterator[Step]:
        read = 0
        for step in ListPages(self._client, self._resource, dict(piece), page_size=limit):
            read += len(step.page.items)
            if step.next_params is None:
                total = step.page.total_count
                is_cut = read < total if total is not None else step.is_full
                self._slices.answered(piece, split_malformed(step.page.items)[0], is_cut=is_cut)
            yield step

    def _listing(self, *, page_size: int, next_params: Params | None = None) -> ListPages:
        return ListPages(
            self._client, self._resource, self._params,
            page_size=page_size, next_params=next_params,
        )  # fmt: skip


def _ms(item: Any, field: str) -> int | None:
    value = item.get(field) if isinstance(item, dict) else None
    return value if type(value) is int else None


# --- slices -----------------------------------------------------------------------------------

SLICES_MAX = 400  # requests; a list that needs more can't be read this way
VALUES_MAX = 200  # per filter
_FIELDS = {
    "stage": ("currentStage",),
    "stage id": ("currentStageId",),  # some servers filter stages by id
    "label": ("labels",),
    "title": ("title",),
    "company": ("company",),
    "name": ("firstName", "lastName"),
}
_DIVIDERS = ("label", "title", "company", "name", "stage")
_EXACT = ("stage", "label")  # a server may take the others' values for parts of what it has

Slice = tuple[tuple[str, str], ...]
"""Filters and their values; the rows that match all of them."""


class Slices:
    """The slices to request: each stage, each label, then all other filters in turn."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, None]] = {name: {} for name in _FIELDS}
        self._done: set[Slice] = set()
        self._cut: list[Slice] = []
        self._ignored: set[str] = set()
        self._finds_parts = True  # of names, as far as we know

    def learn(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Remember the stages, labels, titles, companies and names of rows."""
        for name, fields in _FIELDS.items():
            known = self._values[name]
            for field in fields if len(known) < VALUES_MAX else ():
                _learn(known, [record.get(field) for record in records])

    def next(self) -> Slice | None:
        """A slice that wasn't requested yet; None if there is none, or too many were."""
        if len(self._done) >= SLICES_MAX:
            return None
        for one in self._candidates():
            name, value = one[-1]
            if one not in self._done and name not in self._ignored and value.strip():
                self._done.add(one)
                return one
        return None

    def answered(self, asked: Slice, records: list[dict[str, Any]], *, is_cut: bool) -> None:
        """Learn from a slice's rows. is_cut: the server has more of them than it returned."""
        self.learn(records)
        name, value = asked[-1]
        if sum(_matches(record, name, value) for record in records) < len(records) / 2:
            self._ignored.add(name)  # the server ignores this filter
        elif is_cut:
            self._cut.append(asked)
        is_part = any(value in known.casefold() for known in self._values["name"])
        if not records and dict(asked).keys() == {"name"} and is_part:
            self._finds_parts = False

    def _candidates(self) -> Iterator[Slice]:
        known, letters = self._values, self._letters()
        parts = [cut[0][1] + letter for cut in self._cut if [*dict(cut)] == ["name"]
                 for letter in letters]  # fmt: skip
        yield from _asked("stage", known["stage"])
        yield from _asked("label", known["label"])
        yield from _asked("stage", known["stage id"])
        others = (
            _asked("title", known["title"]),
            _asked("company", known["company"]),
            _asked("name", [*letters, *parts]),
            _asked("name", known["name"]),
            *(
                _asked(name, [*(letters if name == "name" else ()), *known[name]], self._cut)
                for name in _DIVIDERS
            ),
        )
        turn = len(self._done) % len(others)
        yield from chain(*others[turn:], *others[:turn])

    def _letters(self) -> list[str]:
        """The letters of names, if the server finds parts of names."""
        if not self._finds_parts:
            return []
        seen = chain.from_iterable(name.casefold() for name in self._values["name"])
        return [each for each in dict.fromkeys(chain(seen, string.ascii_lowercase)) if each.strip()]


def _asked(name: str, values: Iterable[str], within: Sequence[Slice] = ((),)) -> Iterator[Slice]:
    """One filter's values, for all rows or within slices that don't use this filter yet."""
    for cut in [*within]:
        if name not in dict(cut):
            yield from ((*cut, (name, value)) for value in [*values])


def _learn(known: dict[str, None], values: list[Any]) -> None:
    for value in [each for each in values if each and not (type(each) is str and each in known)]:
        for text in value if isinstance(value, list) else (value,):
            if isinstance(text, str) and text not in known and len(known) < VALUES_MAX:
                known[text] = None


def _texts(record: Mapping[str, Any], name: str) -> list[str]:
    """A record's values for a filter."""
    found: list[str] = []
    for field in _FIELDS[name]:
        value = record.get(field)
        values = value if isinstance(value, list) else [value]
        found += [text for text in values if isinstance(text, str) and text.strip()]
    return found


def _matches(record: Mapping[str, Any], name: str, value: str) -> bool:
    texts = _texts(record, name) + (_texts(record, "stage id") if name == "stage" else [])
    if name not in _EXACT:
        return value.strip().casefold() in " ".join(texts).casefold()
    wanted = {part.strip().casefold() for part in (value, *value.split(","))}
    return any(text.strip().casefold() in wanted for text in texts)
