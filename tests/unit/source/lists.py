"""A server of one list in memory, with every oddity that real ones were seen to have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from connector.api.envelopes import Page, check_parameters
from connector.budget import Lane
from connector.errors import Refused


class ListServer:
    """Answers `page` and `record` as ApiClient does. rows: the truth, newest first, changeable.

    asked: the parameters of every request. before: called with the number of each request, to
    change the list or to raise. refuses_above: limits that are answered with 400. clamps: the
    most rows of a page. paged, counted: whether it gives page tokens and totalCount. matches:
    which row a filter takes.
    """

    def __init__(
        self,
        rows: list[Any],
        *,
        paged: bool = True,
        counted: bool = False,
        clamps: int | None = None,
        refuses_above: int | None = None,
        before: Callable[[int], None] = lambda _: None,
        matches: Callable[[Any, str, str], bool] = lambda *_: True,
        answer: Callable[[Page, Mapping[str, Any]], Page] = lambda page, _: page,
    ) -> None:
        self.rows, self.asked = rows, list[dict[str, Any]]()
        self.records_asked: list[str] = []
        self._paged, self._counted, self._clamps = paged, counted, clamps
        self._refuses_above = refuses_above
        self.before, self._matches, self._answer = before, matches, answer

    def page(self, resource: str, params: Mapping[str, Any], *, lane: Lane = Lane.PULL) -> Page:
        assert lane is Lane.PULL
        check_parameters(resource, params)
        self.asked.append(dict(params))
        self.before(len(self.asked))
        limit = int(params["limit"])
        if self._refuses_above is not None and limit > self._refuses_above:
            raise Refused(status=400, url_path=f"/{resource}", reason="limit")
        return self._answer(self._page(params, min(limit, self._clamps or limit)), params)

    def _page(self, params: Mapping[str, Any], limit: int) -> Page:
        paging = {"limit", "pageToken", "startAfter"}
        filters = [item for item in params.items() if item[0] not in paging]
        rows = [row for row in self.rows if all(self._matches(row, *one) for one in filters)]
        start = int(params.get("pageToken", "0").removeprefix("t"))
        items = rows[start : start + limit]
        more = self._paged and start + limit < len(rows)
        return Page(
            items=items,
            next_params={"pageToken": str(start + limit)} if more else None,
            total_count=len(rows) if self._counted else None,
        )

    def record(
        self, resource: str, record_id: str, *, patience_s: float = 0, **_: float
    ) -> dict[str, Any] | None:
        self.records_asked.append(record_id)
        return next((row for row in self.rows if row["id"] == record_id), None)


def records(count: int, first: int = 0, **fields: Any) -> list[Any]:
    """Newest first: `createdAt` falls by 1000 ms a row."""
    return [
        {"id": f"r{number}", "createdAt": 10_000_000 - number * 1000, **fields}
        for number in range(first, first + count)
    ]


def expired(resource: str = "notes") -> Refused:
    return Refused(status=400, url_path=f"/{resource}", reason="pageToken expired")
