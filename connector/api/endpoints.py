"""Facts about the lists of the API, in one place.

Source: the vendor's reference, whose revisions differ. No list can be filtered or ordered by
`updatedAt`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

IDEMPOTENCY_KEY_MAX = 512  # characters
PAGING = frozenset({"limit", "pageToken", "startAfter"})  # the last two: as an answer said


@dataclass(frozen=True)
class Endpoint:
    """One list, `GET /<name>`, and its single records, `GET /<name>/{id}`.

    item_name: what one record is called, where an answer names it.
    parameters: every query parameter that some revision documents. Others are never sent: a
        server ignores what it doesn't know, so a misspelt filter would return everything.
    order_by, order: the field that pages are ordered by, and how; None = not documented.
    """

    name: str
    item_name: str
    parameters: frozenset[str]
    order_by: str | None = None
    order: Literal["ascending", "descending"] | None = None


PROSPECTS = Endpoint(
    name="prospects",
    item_name="prospect",
    parameters=PAGING | {"email", "phone", "name", "title", "company", "stage", "label"},
)
NOTES = Endpoint(
    name="notes",
    item_name="note",
    parameters=PAGING | {"prospectId", "userId"},
    order_by="createdAt",
    order="descending",
)
TASKS = Endpoint(
    name="tasks",
    item_name="task",
    parameters=PAGING
    | {"prospectId", "assignedTo", "userId", "incompleteOnly", "dueBefore", "dueAfter"}
    | {"assignTo"},  # what an older revision calls assignedTo
    order_by="dueAt",
    order="ascending",
)
MEETINGS = Endpoint(
    name="meetings",
    item_name="meeting",
    parameters=PAGING
    | {"prospectId", "ownerId", "meetingType", "meetingDateAfter", "meetingDateBefore"},
    order_by="meetingDate",
    order="descending",
)
ENDPOINTS = {endpoint.name: endpoint for endpoint in (PROSPECTS, NOTES, TASKS, MEETINGS)}


def check_parameters(resource: str, names: Iterable[str]) -> None:
    """Raise ValueError if `resource` is no list, or one of `names` none of its parameters."""
    if resource not in ENDPOINTS:
        raise ValueError(f"{resource!r} is no list of the API; there are {', '.join(ENDPOINTS)}")
    unknown = sorted(set(names) - ENDPOINTS[resource].parameters)
    if unknown:
        raise ValueError(f"GET /{resource} knows no parameter {', '.join(unknown)}")
