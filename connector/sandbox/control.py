"""`/__sandbox__/…`: look at and change a sandbox from another process.

No key is needed, and nothing here is counted or logged. So a page in the user's browser must not
get at it: only this machine's own names are answered (a rebound DNS name isn't one), and no page of
another origin.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from connector.sandbox.encoding import encode
from connector.sandbox.options import RESOURCES, change_options
from connector.sandbox.state import State
from connector.sandbox.validation import json_object

PREFIX = "/__sandbox__"
_OWN_NAMES = ("127.0.0.1", "localhost", "::1")
Answer = Callable[[Request], Awaitable[Response]]


class Control:
    """One method per route.

    `GET requests | applied | unknown | stats | store/<resource>[/<id>]` ·
    `POST store/<resource>` `{"op": create|update|delete|put, "id"?, "record"?, "touch"?}` ·
    `POST options` (any of `SandboxOptions`, JSON) · `POST clear` (the log) ·
    `POST spend` `{"count"}`.
    """

    def __init__(self, state: State) -> None:
        self._state = state

    def routes(self) -> list[BaseRoute]:
        return [
            self._route("/requests", self.requests),
            self._route("/applied", self.applied),
            self._route("/unknown", self.unknown),
            self._route("/stats", self.stats),
            self._route("/store/{resource}", self.store, "GET", "POST"),
            self._route("/store/{resource}/{record_id}", self.record),
            self._route("/options", self.options, "POST"),
            self._route("/clear", self.clear, "POST"),
            self._route("/spend", self.spend, "POST"),
        ]

    @staticmethod
    def _route(path: str, answer: Answer, *methods: str) -> Route:
        async def guarded(request: Request) -> Response:
            reason = _why_not(request)
            if reason is not None:
                body = encode({"error": "Forbidden", "message": reason})
                return Response(body, 403, media_type="application/json")
            return await answer(request)

        return Route(f"{PREFIX}{path}", guarded, methods=list(methods) or ["GET"])

    async def requests(self, request: Request) -> Response:
        """From `?after=<number>` on, where given."""
        after = int(request.query_params.get("after", "0"))
        return _json([each.as_json() for each in self._state.log.requests[after:]])

    async def applied(self, _request: Request) -> Response:
        return _json([change.as_json() for change in self._state.log.applied])

    async def unknown(self, _request: Request) -> Response:
        log = self._state.log
        return _json({"parameters": log.unknown_parameters, "fields": log.unknown_fields})

    async def stats(self, _request: Request) -> Response:
        """Numbers instead of the log: requests by status, faults by name, rows by resource."""
        log = self._state.log
        return _json(
            {
                "requests": len(log.requests),
                "applied": len(log.applied),
                "statuses": _counted(str(each.status) for each in log.requests),
                "faults": _counted(each.fault for each in log.requests if each.fault),
                "foreign_spent": self._state.limits.foreign_spent,
                "rows": {name: self._state.store.count(name) for name in RESOURCES},
            }
        )

    async def store(self, request: Request) -> Response:
        resource = request.path_params["resource"]
        if resource not in RESOURCES:
            return _refused(f"unknown resource {resource!r}")
        if request.method == "GET":
            return _json(self._state.store.all(resource))
        try:
            return _json(_changed(self._state, resource, json_object(await request.body())))
        except (KeyError, ValueError) as error:
            return _refused(str(error))

    async def record(self, request: Request) -> Response:
        return _json(
            self._state.store.get(request.path_params["resource"], request.path_params["record_id"])
        )

    async def options(self, request: Request) -> Response:
        try:
            change_options(self._state.options, json_object(await request.body()))
        except (TypeError, ValueError) as error:
            return _refused(str(error))
        return _json({"success": True})

    async def clear(self, _request: Request) -> Response:
        self._state.log.clear()
        return _json({"success": True})

    async def spend(self, request: Request) -> Response:
        count = json_object(await request.body())["count"]
        return _json({"spent": self._state.limits.spend(int(count), self._state.clock.now_s())})


def _why_not(request: Request) -> str | None:
    """Why a request may come from a page of another site; None: from this machine's own program."""
    own = request.headers.get("host", "")
    if (urlsplit(f"//{own}").hostname or "") not in _OWN_NAMES:
        return "the control API answers to 127.0.0.1 and localhost only"
    origin = request.headers.get("origin")
    if origin is not None and origin != f"http://{own}":
        return "the control API isn't for pages of other origins"
    return None


def _changed(state: State, resource: str, order: dict[str, Any]) -> Any:
    match order["op"]:
        case "create":
            return state.store.create(resource, order["record"])
        case "update":
            return state.store.update(
                resource, order["id"], order["record"], touch=order.get("touch", True)
            )
        case "delete":
            return state.store.delete(resource, order["id"])
        case "put":
            return state.store.put(resource, order["record"])
    raise ValueError(f"unknown op {order['op']!r}; known: create, update, delete, put")


def _counted(values: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return counts


def _json(value: Any) -> Response:
    return Response(encode(value), media_type="application/json")


def _refused(message: str) -> Response:
    return Response(
        encode({"error": "Bad request", "message": message}), 400, media_type="application/json"
    )
