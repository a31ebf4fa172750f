"""When a list ended before all of it was there: ask for all at once, then in slices."""

from __future__ import annotations

from collections.abc import Iterator

from connector.api.client import ApiClient
from connector.api.endpoints import ENDPOINTS
from connector.errors import IncompleteList, Refused, Unreachable
from connector.logs import get_logger
from connector.source.listing import Listing, PlaceLost, Step
from connector.source.records import split
from connector.source.sightings import Sightings
from connector.source.slices import Slice

SLICED = frozenset({"prospects"})  # lists whose filters `Slices` knows
ALL_MAX = 100_000  # rows of one answer
MARGIN = 50  # rows that may be added while we ask
_WIDER = 10
log = get_logger("source")


def is_uncounted_cut(resource: str, step: Step) -> bool:
    """Whether a last page may be a part only: full, of a list without tokens, and uncounted."""
    page = step.page
    return (
        not ENDPOINTS[resource].paged
        and not {"pageToken", "startAfter"} & step.asked.keys()
        and page.next_params is None
        and page.total_count is None
        and len(page.items) >= step.limit
    )


def the_rest(client: ApiClient, resource: str, seen: Sightings, last: Step) -> Iterator[Step]:
    """What the list has beyond `last`, its last page. The caller notes each step in `seen`.

    Raises:
        IncompleteList: rows are missing still, as far as the server says how many there are.
    """
    total_count = seen.totals.last
    if total_count is None:
        yield from _uncounted(client, resource, seen, last)
        return
    limit = last.limit
    for step in _all_at_once(client, resource, total_count):
        limit = step.limit
        seen.totals.say(step.page.total_count)
        yield step
    if seen.missing() and resource in SLICED:
        for step in _in_slices(client, resource, seen, limit):
            yield step
            if not seen.missing():
                return
    if seen.missing():
        raise IncompleteList(resource=resource, total_count=seen.totals.last, listed=seen.listed())


def _all_at_once(client: ApiClient, resource: str, total_count: int) -> Iterator[Step]:
    """The list again, in pages as big as the server gives."""
    limit = min(ALL_MAX, total_count + max(MARGIN, total_count // 50))
    log.info("source.all_at_once", resource=resource, total_count=total_count, limit=limit)
    try:
        yield from Listing(client, resource, {}, page_size=limit)
    except PlaceLost:
        log.info("source.page_token_lost", resource=resource)
    except Unreachable as error:  # too much for one answer; slices are smaller
        log.warning("source.all_at_once_failed", resource=resource, last=error.last)


def _uncounted(client: ApiClient, resource: str, seen: Sightings, last: Step) -> Iterator[Step]:
    """Nobody counts: believed once a bigger page isn't full, and no slice has more."""
    if _pages_when_asked_for_less(client, resource, len(last.page.items)):
        return
    limit = last.limit
    for step in _ever_wider(client, resource, len(last.page.items)):
        limit = step.limit
        yield step
    listed = seen.listed()
    yield from _in_slices(client, resource, seen, limit)
    if seen.listed() > listed:
        raise IncompleteList(resource=resource, total_count=None, listed=seen.listed())


def _pages_when_asked_for_less(client: ApiClient, resource: str, rows: int) -> bool:
    """Whether the list has page tokens after all, and ended just where a page did."""
    step = next(iter(Listing(client, resource, {}, page_size=max(1, rows // 2))))
    return step.next_params is not None


def _ever_wider(client: ApiClient, resource: str, rows: int) -> Iterator[Step]:
    """The list again with bigger and bigger limits, until one isn't filled."""
    limit = rows * _WIDER
    while limit <= ALL_MAX:
        step = next(iter(Listing(client, resource, {}, page_size=limit)))
        yield step
        more = len(step.page.items)
        if more <= rows or more < step.limit or step.limit < limit:
            return
        rows, limit = more, limit * _WIDER


def _in_slices(client: ApiClient, resource: str, seen: Sightings, limit: int) -> Iterator[Step]:
    """Slice after slice; the caller stops when nothing is missing any more."""
    while (piece := seen.slices.next()) is not None:
        try:
            yield from _slice(client, resource, seen, piece, limit)
        except PlaceLost:
            log.info("source.page_token_lost", resource=resource)
        except Refused as refused:
            log.warning("source.slice_refused", resource=resource, status=refused.status)


def _slice(
    client: ApiClient, resource: str, seen: Sightings, piece: Slice, limit: int
) -> Iterator[Step]:
    read = 0
    for step in Listing(client, resource, dict(piece.params), page_size=limit):
        read += len(step.page.items)
        if step.next_params is None:
            total = step.page.total_count
            is_cut = read < total if total is not None else len(step.page.items) >= step.limit
            seen.slices.answered(piece, split(step.page.items)[0], is_cut=is_cut)
        yield step
