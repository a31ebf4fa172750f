"""The lists of the API and their parameters.

Source: the vendor's reference, whose revisions differ. No list can be filtered or ordered by
`updatedAt`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

IDEMPOTENCY_KEY_MAX = 512  # characters
PAGING = frozenset({"limit", "pageToken", "startAfter"})  # the last two come from an answer


@dataclass(frozen=True)
class Endpoint:
    """One list, `GET /<name>`, and its single records, `GET /<name>/{id}`.

    item_name: the key of one record in an answer.
    parameters: every query parameter that some revision documents. Others are never sent: a
        server ignores what it doesn't know, so a misspelled filter would return everything.
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
    | {"assignTo"},  # assignedTo in an older revision
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
    """Raise ValueError if `resource` isn't a list, or a name isn't one of its parameters."""
    if resource not in ENDPOINTS:
        raise ValueError(f"the API has no list {resource!r}, only {', '.join(ENDPOINTS)}")
    unknown = sorted(set(names) - ENDPOINTS[resource].parameters)
    if unknown:
        raise ValueError(f"GET /{resource} has no parameter {', '.join(unknown)}")
