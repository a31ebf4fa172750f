"""One walk through one list, page after page, whatever the server makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from connector.api.client import ApiClient
from connector.api.endpoints import ENDPOINTS
from connector.api.envelopes import Page
from connector.errors import EndlessList, Refused
from connector.logs import get_logger

LIMITS = (1000, 500, 200, 100, 50, 25)  # tried downwards where a server refuses a bigger one
EMPTY_PAGES_MAX = 50  # in a row, each naming a next one
REPEATED_PAGES_MAX = 10  # in one walk; rows that move meanwhile can make a page come twice
_BAD_REQUEST = (400, 422)
_PLACE_GONE = (400, 404, 410, 422)
_WIDENINGS_MAX = 6

Params = Mapping[str, str]
log = get_logger("source")


class PlaceLost(Exception):
    """The server no longer knows the page token: the list has to be begun anew."""


@dataclass(frozen=True)
class Step:
    """One page. asked: the parameters that gave it. limit: rows asked for.

    next_params: what to add for the next page; None where the server says this is the last.
    """

    page: Page
    asked: dict[str, str]
    limit: int
    next_params: dict[str, str] | None


class Listing:
    """Iterate it once. params: filters. page_size: rows to ask for; falls where it is refused.

    next_params: where to begin, from an earlier `Step`; None: at the beginning.

    Raises (while iterating)
        PlaceLost: the server refused the page token.
        EndlessList: pages repeat, or stay empty, without an end.
        ApiError: what ApiClient.page raises.
    """

    def __init__(
        self,
        client: ApiClient,
        resource: str,
        params: Params,
        *,
        page_size: int,
        next_params: Params | None = None,
    ) -> None:
        self._client, self._resource, self._params = client, resource, dict(params)
        self.page_size = page_size
        self._next: dict[str, str] | None = dict(next_params) if next_params else None
        self._seen: set[int] = set()
        self._contents: set[int] = set()
        self._repeated_pages = 0
        self._widenings = 0

    def __iter__(self) -> Iterator[Step]:
        """Each page once. A short page is no end, and an empty one isn't either."""
        empty_pages = 0
        while True:
            step = self._step()
            yield step
            if step.next_params is None:
                return
            empty_pages = 0 if step.page.items else empty_pages + 1
            if empty_pages >= EMPTY_PAGES_MAX:
                raise EndlessList(resource=self._resource, reason=f"{empty_pages} pages were empty")
            self._check_for_news(step.page)
            self._advance(step)

    def _check_for_news(self, page: Page) -> None:
        """A token that is new each time, on pages that aren't, would go on for ever."""
        ids = [item.get("id") if isinstance(item, dict) else None for item in page.items]
        if not ids or None in ids:
            return
        mark = hash(tuple(map(str, ids)))
        self._repeated_pages += mark in self._contents
        self._contents.add(mark)
        if self._repeated_pages >= REPEATED_PAGES_MAX:
            reason = f"{self._repeated_pages} pages held the same rows as earlier ones"
            raise EndlessList(resource=self._resource, reason=reason)

    def _step(self) -> Step:
        place = self._next or {}
        page = self._with_place(place) if place else self._first()
        asked = {**self._params, **place, "limit": str(self.page_size)}
        return Step(page, asked, self.page_size, overlapping(self._resource, page))

    def _with_place(self, place: Params) -> Page:
        try:
            return self._page(place)
        except Refused as refused:
            if refused.status in _PLACE_GONE:
                raise PlaceLost from refused
            raise

    def _first(self) -> Page:
        """The first page, for a smaller limit where the server refuses this one."""
        try:
            return self._page({})
        except Refused as refused:
            smaller = [size for size in LIMITS if size < self.page_size]
            if refused.status not in _BAD_REQUEST or not smaller:
                raise
            log.info("source.limit_refused", resource=self._resource, limit=self.page_size)
            self.page_size = smaller[0]
            return self._first()

    def _page(self, place: Params) -> Page:
        params = {**self._params, "limit": str(self.page_size), **place}
        return self._client.page(self._resource, params)

    def _advance(self, step: Step) -> None:
        """Go on to the next page; one that was asked for before would go on for ever."""
        self._next = step.next_params
        mark = hash(tuple(sorted((step.next_params or {}).items())))
        if mark not in self._seen:
            self._seen.add(mark)
        elif "startAfter" in (step.next_params or {}) and self._widenings < _WIDENINGS_MAX:
            self._widenings += 1  # more rows share this millisecond than fit on a page
            self.page_size *= 2
        else:
            raise EndlessList(
                resource=self._resource, reason="the server named a page that was read before"
            )


def overlapping(resource: str, page: Page) -> dict[str, str] | None:
    """How to ask for the page after `page`.

    `startAfter` names a millisecond that other rows may share, on both sides of the boundary:
    it is moved by one, so that those are read again instead of being left out.
    """
    after = (page.next_params or {}).get("startAfter")
    if after is None or not after.lstrip("-").isdecimal():
        return page.next_params
    back = -1 if _is_ascending(resource, page.items) else 1
    return {**(page.next_params or {}), "startAfter": str(int(after) + back)}


def _is_ascending(resource: str, items: list[Any]) -> bool:
    """As documented; where no order is, as the page itself is ordered by `createdAt`."""
    order = ENDPOINTS[resource].order
    if order is not None:
        return order == "ascending"
    times = [item["createdAt"] for item in items if _has_time(item, "createdAt")]
    return times == sorted(times) and times[:1] != times[-1:]


def _has_time(item: Any, field: str) -> bool:
    return isinstance(item, dict) and type(item.get(field)) is int
