"""Reaching the rows of a list that can't be paged, through its filters. Pure.

Prospects have no documented page token. Where the server doesn't give all at once either, rows
are asked for by stage and by label, as learned from the rows seen. Rows that have neither, or
were cut, are then asked for by title, company, name and parts of names, and what is still cut is
divided by a second filter: each of these ways in turn, since nobody knows which of them helps.
"""

from __future__ import annotations

import string
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

SLICES_MAX = 400  # requests; a list that needs more can't be read this way
VALUES_MAX = 200  # per filter
_FIELDS = {
    "stage": ("currentStage",),
    "label": ("labels",),
    "title": ("title",),
    "company": ("company",),
    "name": ("firstName", "lastName"),
}
_DIVIDERS = ("label", "title", "company", "name", "stage")
_EXACT = ("stage", "label")  # a server may take the others' values for parts of what it has


@dataclass(frozen=True)
class Slice:
    """The rows that all of `params` (filter → value) match."""

    params: tuple[tuple[str, str], ...]

    def and_also(self, name: str, value: str) -> Slice:
        return Slice((*self.params, (name, value)))

    @property
    def names(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.params)


class Slices:
    """What to ask for next: each stage, each label, then all other ways in turn."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, None]] = {name: {} for name in _FIELDS}
        self._stage_ids: dict[str, None] = {}
        self._done: set[Slice] = set()
        self._cut: deque[Slice] = deque()
        self._ignored: set[str] = set()
        self._finds_parts = True  # of names, as far as we know

    def learn(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Remember the stages, labels, titles, companies and names of rows."""
        for record in records:
            for name, fields in _FIELDS.items():
                for field in fields:
                    _learn(self._values[name], record.get(field))
            _learn(self._stage_ids, record.get("currentStageId"))

    def next(self) -> Slice | None:
        """A slice that was not asked for yet; None when there is none, or too many were."""
        if len(self._done) >= SLICES_MAX:
            return None
        found = next((one for one in self._candidates() if one not in self._done), None)
        if found is not None:
            self._done.add(found)
        return found

    def answered(self, asked: Slice, records: list[dict[str, Any]], *, is_cut: bool) -> None:
        """Learn from a slice's rows. is_cut: the server has more of them than it gave."""
        self.learn(records)
        name, value = asked.params[-1]
        if sum(_matches(record, name, value) for record in records) < len(records) / 2:
            self._ignored.add(name)  # everything comes, whatever is asked
        elif is_cut:
            self._cut.append(asked)
        if not records and asked.names == {"name"} and self._is_part(value):
            self._finds_parts = False

    def _is_part(self, value: str) -> bool:
        """Whether rows are known whose name has `value` in it."""
        return any(value in known.casefold() for known in self._values["name"])

    def _candidates(self) -> Iterator[Slice]:
        yield from self._whole("stage", self._values["stage"])
        yield from self._whole("label", self._values["label"])
        yield from self._whole("stage", self._stage_ids)  # some servers filter by id
        others = (
            self._whole("title", self._values["title"]),
            self._whole("company", self._values["company"]),
            self._whole("name", self._parts()),
            self._whole("name", self._values["name"]),
            *(self._divided(name) for name in _DIVIDERS),
        )
        turn = len(self._done) % len(others)
        yield from chain(*others[turn:], *others[:turn])

    def _whole(self, name: str, values: Iterable[str]) -> Iterator[Slice]:
        for value in list(values):
            if name not in self._ignored and value.strip():
                yield Slice(((name, value),))

    def _divided(self, name: str) -> Iterator[Slice]:
        values = [*self._values[name]]
        if name == "name":
            values = [*self._letters(), *values]
        for cut in list(self._cut):
            if name not in cut.names and name not in self._ignored:
                yield from (cut.and_also(name, value) for value in values if value.strip())

    def _parts(self) -> Iterator[str]:
        """Letters, then two where one was too many, and so on."""
        letters = self._letters()
        yield from letters
        for cut in list(self._cut):
            if cut.names == {"name"}:
                yield from (cut.params[0][1] + letter for letter in letters)

    def _letters(self) -> list[str]:
        """What names are made of, where the server looks for parts of names."""
        if not self._finds_parts:
            return []
        seen = chain.from_iterable(name.casefold() for name in self._values["name"])
        return [each for each in dict.fromkeys(chain(seen, string.ascii_lowercase)) if each.strip()]


def _learn(known: dict[str, None], value: Any) -> None:
    for text in value if isinstance(value, list) else (value,):
        if isinstance(text, str) and text not in known and len(known) < VALUES_MAX:
            known[text] = None


def _texts(value: Any) -> list[str]:
    if isinstance(value, list):
        return [item for item in value if isinstance(item, str) and item.strip()]
    return [value] if isinstance(value, str) and value.strip() else []


def _matches(record: Mapping[str, Any], name: str, value: str) -> bool:
    texts = [text for field in _FIELDS[name] for text in _texts(record.get(field))]
    if name == "stage":
        texts += _texts(record.get("currentStageId"))
    if name not in _EXACT:
        return value.strip().casefold() in " ".join(texts).casefold()
    wanted = {part.strip().casefold() for part in (value, *value.split(","))}
    return any(text.strip().casefold() in wanted for text in texts)
