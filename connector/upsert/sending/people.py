"""Who is there: people and what goes with them, looked up in the API before a write.

One request each, in the push lane.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from connector.budget import Lane
from connector.upsert.outbox.matching import same_email, same_phone
from connector.upsert.outbox.outbox import PROSPECTS
from connector.upsert.sending.api import Api, UnfilteredList

_MAX_PAGES = 20
Item = Mapping[str, Any]


class Found(NamedTuple):
    """item: the person; None: nobody. sure: False where the API didn't filter its list, so that
    nobody being found tells nothing."""

    item: Item | None
    sure: bool


class Attached(NamedTuple):
    """items: of one person. complete: they are all there are."""

    items: list[Item]
    complete: bool


class People:
    """Looks people up; thread-safe. Raises what the API client raises."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def by_id(self, prospect_id: str) -> Item | None:
        """The person; None if they were deleted."""
        return self._api.record(PROSPECTS, prospect_id, lane=Lane.PUSH)

    def by_contact(self, payload: Mapping[str, Any]) -> Found:
        """The person with the payload's email, or else with its phone."""
        sure = True
        for name, same in (("email", same_email), ("phone", same_phone)):
            if not payload.get(name):
                continue
            items = self._listed({name: str(payload[name])})
            for item in items:
                if same(payload[name], item.get(name)):
                    return Found(item, True)
            sure = sure and not items  # a filter that wasn't honoured tells nothing
        return Found(None, sure)

    def by_name(self, payload: Mapping[str, Any]) -> list[Item]:
        """Everybody of the payload's first and last name, for a row without any contact.

        Raises:
            UnfilteredList: the API lists others too.
        """
        first, last = (str(payload.get(name) or "") for name in ("firstName", "lastName"))
        items = self._listed({"name": f"{first} {last}".strip()})
        own = [each for each in items if _name(each) == _folded(f"{first} {last}")]
        if items and not own:
            raise UnfilteredList
        return own

    def of(self, prospect_id: str | None, payload: Mapping[str, Any]) -> Item | None:
        """The person that a write is about: by id where one is known, else by contact.

        Raises:
            UnfilteredList: whether there is anybody can't be told.
        """
        if prospect_id is not None and (item := self.by_id(prospect_id)) is not None:
            return item
        found = self.by_contact(payload)
        if found.item is None and not found.sure:
            raise UnfilteredList
        return found.item

    def attached(self, kind: str, prospect_id: str) -> Attached:
        """The notes (tasks, meetings) of one person."""
        items: list[Item] = []
        own, place = {"prospectId": prospect_id}, dict[str, str]()
        for _ in range(_MAX_PAGES):
            page = self._api.page(kind, {**own, **place}, lane=Lane.PUSH)
            items += [item for item in page.items if isinstance(item, dict)]
            if page.next_params is None:
                return _of_person(items, prospect_id, complete=page.cut is None)
            place = page.next_params
        return _of_person(items, prospect_id, complete=False)

    def _listed(self, params: Mapping[str, str]) -> list[Item]:
        page = self._api.page(PROSPECTS, params, lane=Lane.PUSH)
        return [item for item in page.items if isinstance(item, dict)]


def _of_person(items: list[Item], prospect_id: str, *, complete: bool) -> Attached:
    """Those of one person. An item needn't name its person; where the filter was honoured it is
    this one's, and where it wasn't, whose it is can't be told."""
    own: list[Item] = []
    nameless: list[Item] = []
    others = False
    for item in items:
        named = item.get("prospectId")
        if named is None:
            nameless.append(item)
        elif str(named) == prospect_id:  # ids are numbers in some answers
            own.append(item)
        else:
            others = True
    if not others:
        return Attached(own + nameless, complete)
    return Attached(own, complete and not nameless)


def _name(item: Item) -> str:
    return _folded(f"{item.get('firstName') or ''} {item.get('lastName') or ''}")


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())
