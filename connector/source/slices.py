"""Reaching the rows of a list that can't be paged, through its filters. Pure.

Prospects have no documented page token. Where the server doesn't give all at once either, rows
are asked for by stage and by label, as learned from the rows seen; what is still cut is divided
by a second filter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

SLICES_MAX = 400  # requests; a list that needs more can't be read this way
VALUES_MAX = 200  # per filter
_FIELDS = {
    "stage": "currentStage",
    "label": "labels",
    "title": "title",
    "company": "company",
    "name": "firstName",
}
_DIVIDERS = ("label", "title", "company", "name", "stage")


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
    """What to ask for next: each stage, each label, then whatever was cut, divided further."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, None]] = {name: {} for name in _FIELDS}
        self._stage_ids: dict[str, str] = {}
        self._done: set[Slice] = set()
        self._cut: deque[Slice] = deque()
        self._ignored: set[str] = set()

    def learn(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Remember the stages, labels, titles, companies and first names of rows."""
        for record in records:
            for name, field in _FIELDS.items():
                self._learn(name, record.get(field))
            stage, stage_id = record.get("currentStage"), record.get("currentStageId")
            if isinstance(stage, str) and isinstance(stage_id, str):
                self._stage_ids[stage] = stage_id

    def _learn(self, name: str, value: Any) -> None:
        known = self._values[name]
        for text in value if isinstance(value, list) else (value,):
            if isinstance(text, str) and text not in known and len(known) < VALUES_MAX:
                known[text] = None

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
        if not records and name == "stage" and value in self._stage_ids:
            self._values["stage"][self._stage_ids[value]] = None  # this server filters by id
        elif sum(_matches(record, name, value) for record in records) < len(records) / 2:
            self._ignored.add(name)  # everything comes, whatever is asked
        elif is_cut:
            self._cut.append(asked)

    def _candidates(self) -> Iterable[Slice]:
        return chain(self._whole("stage"), self._whole("label"), self._divided())

    def _whole(self, name: str) -> Iterable[Slice]:
        if name not in self._ignored:
            values = [value for value in self._values[name] if value.strip()]
            yield from (Slice(((name, value),)) for value in values)

    def _divided(self) -> Iterable[Slice]:
        for cut in list(self._cut):
            for name in _DIVIDERS:
                if name not in cut.names and name not in self._ignored:
                    yield from (cut.and_also(name, value) for value in list(self._values[name]))


def _texts(value: Any) -> list[str]:
    if isinstance(value, list):
        return [item for item in value if isinstance(item, str) and item.strip()]
    return [value] if isinstance(value, str) and value.strip() else []


def _matches(record: Mapping[str, Any], name: str, value: str) -> bool:
    texts = _texts(record.get(_FIELDS[name]))
    if name == "stage":
        texts = [*texts, *_texts(record.get("currentStageId"))]
    wanted = {part.strip().casefold() for part in (value, *value.split(","))}
    return any(text.strip().casefold() in wanted for text in texts)
