"""When a list ended before all of it was there: ask for all at once, then in slices."""

from __future__ import annotations

from collections.abc import Iterator

from connector.api.client import ApiClient
from connector.api.endpoints import ENDPOINTS
from connector.errors import Refused
from connector.logs import get_logger
from connector.source.listing import Listing, PlaceLost, Step
from connector.source.records import split
from connector.source.slices import Slice, Slices

MARGIN = 50  # rows that may be added while we ask
_WIDER = 10
_LIMIT_MAX = 1_000_000
log = get_logger("source")


def is_uncounted_cut(resource: str, step: Step) -> bool:
    """Whether a last page may be a part only: full, of a list without tokens, and uncounted."""
    page = step.page
    return (
        not ENDPOINTS[resource].paged
        and "pageToken" not in step.asked
        and page.next_params is None
        and page.total_count is None
        and len(page.items) >= step.limit
    )


def all_at_once(client: ApiClient, resource: str, total_count: int) -> Iterator[Step]:
    """The list again, in pages as big as the server gives."""
    limit = total_count + max(MARGIN, total_count // 50)
    log.info("source.all_at_once", resource=resource, total_count=total_count, limit=limit)
    try:
        yield from Listing(client, resource, {}, page_size=limit)
    except PlaceLost:
        log.info("source.page_token_lost", resource=resource)


def ever_wider(client: ApiClient, resource: str, rows: int) -> Iterator[Step]:
    """The list again with bigger and bigger limits, until one isn't filled."""
    limit = rows
    while limit < _LIMIT_MAX:
        limit *= _WIDER
        listing = Listing(client, resource, {}, page_size=limit)
        step = next(iter(listing))
        yield step
        if len(step.page.items) <= rows or len(step.page.items) < step.limit < limit:
            return
        rows = len(step.page.items)
        if rows < step.limit:
            return


def in_slices(client: ApiClient, resource: str, slices: Slices, limit: int) -> Iterator[Step]:
    """Slice after slice; the caller stops when nothing is missing any more."""
    while (piece := slices.next()) is not None:
        try:
            yield from _slice(client, resource, slices, piece, limit)
        except PlaceLost:
            log.info("source.page_token_lost", resource=resource)
        except Refused as refused:
            log.warning("source.slice_refused", resource=resource, status=refused.status)


def _slice(
    client: ApiClient, resource: str, slices: Slices, piece: Slice, limit: int
) -> Iterator[Step]:
    read = 0
    for step in Listing(client, resource, dict(piece.params), page_size=limit):
        read += len(step.page.items)
        if step.next_params is None:
            total = step.page.total_count
            is_cut = read < total if total is not None else len(step.page.items) >= step.limit
            slices.answered(piece, split(step.page.items)[0], is_cut=is_cut)
        yield step
