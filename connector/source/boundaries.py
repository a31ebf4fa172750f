"""Rows that move across the boundary between two pages while a list is read."""

from __future__ import annotations

from collections.abc import Iterator

from connector.api.client import ApiClient
from connector.api.envelopes import Page
from connector.errors import Refused
from connector.logs import get_logger
from connector.source.listing import Step
from connector.source.tally import Totals

REREADS_MAX = 6  # requests, for one boundary
log = get_logger("source")


def reread(
    client: ApiClient, resource: str, totals: Totals, before: Step, step: Step
) -> Iterator[Page]:
    """Two neighbouring pages again, after rows were deleted and others moved up between them.

    Where pages are counted off from the top, a deletion moves the first rows of the next page to
    the end of the one that was read. Read until both came under one `totalCount`, so that
    nothing moved in between.
    """
    last, other = step, before
    total_count = step.page.total_count
    for _ in range(REREADS_MAX):
        try:
            page = client.page(resource, other.asked)
        except Refused:
            log.info("source.page_token_lost", resource=resource, goes="on")
            return
        yield page
        if page.total_count == total_count:
            return
        totals.say(page.total_count)
        total_count, last, other = page.total_count, other, last
