"""`/__sandbox__/…`: inspect and change a sandbox from another process.

No key is needed, and nothing here is counted or logged. So a page in the user's browser must not
reach it: only requests to this machine's own names are answered (a rebound DNS name isn't one), and
none from pages of another origin.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from connector.sandbox.request_checks import Refused, json_object
from connector.sandbox.sandbox_options import RESOURCES, change_options
from connector.sandbox.state import State
from connector.sandbox.store import encode

PREFIX = "/__sandbox__"
_OWN_NAMES = ("127.0.0.1", "localhost", "::1")


def control_routes(state: State) -> list[BaseRoute]:
    """`GET requests[?after=<number>] | applied | unknown | stats`, `GET store/<resource>[/<id>]` ·
    `POST store/<resource>` `{"op": create|update|delete|put, "id"?, "record"?, "touch"?}` ·
    `POST options` (any of `SandboxOptions`, JSON) · `POST clear` (the log) ·
    `POST spend` `{"count"}`."""

    async def answer(request: Request) -> Response:
        parts = request.path_params["path"].split("/")
        try:
            _check_origin(request)
            if request.method == "GET":
                return _json(_look(state, parts, int(request.query_params.get("after", "0"))))
            return _json(_change(state, parts, await request.body()))
        except Refused as refused:
            return _json(refused.as_json(), refused.status)
        except (KeyError, TypeError, ValueError) as error:
            return _json({"error": "Bad request", "message": str(error)}, 400)

    return [Route(f"{PREFIX}/{{path:path}}", answer, methods=["GET", "POST"])]


def _check_origin(request: Request) -> None:
    """Refuse (403) a request that may come from another site's page, not from a local program."""
    own = request.headers.get("host", "")
    if (urlsplit(f"//{own}").hostname or "") not in _OWN_NAMES:
        raise Refused(403, "Forbidden", "the control API answers to 127.0.0.1 and localhost only")
    if request.headers.get("origin", f"http://{own}") != f"http://{own}":
        raise Refused(403, "Forbidden", "the control API isn't for pages of other origins")


def _look(state: State, parts: list[str], after: int) -> Any:
    store = state.store
    match parts:
        case ["requests"]:
            return [each.as_json() for each in state.requests[after:]]
        case ["applied"]:
            return [asdict(change) for change in state.applied]
        case ["unknown"]:
            return {"parameters": state.unknown_parameters, "fields": state.unknown_fields}
        case ["stats"]:
            return {
                "requests": len(state.requests),
                "applied": len(state.applied),
                "statuses": Counter(str(each.status) for each in state.requests),
                "faults": Counter(each.fault for each in state.requests if each.fault),
                "foreign_spent": state.foreign_spent,
                "rows": {name: store.count(name) for name in RESOURCES},
            }
        case ["store", resource] if resource in RESOURCES:
            return store.all(resource)
        case ["store", resource, record_id] if resource in RESOURCES:
            return store.get(resource, record_id)
    raise ValueError(f"nothing to see at {'/'.join(parts)!r}")


def _change(state: State, parts: list[str], body: bytes) -> Any:
    match parts:
        case ["clear"]:
            state.clear_log()
        case ["options"]:
            change_options(state.options, json_object(body))
        case ["spend"]:
            return {"spent": state.spend(int(json_object(body)["count"]))}
        case ["store", resource] if resource in RESOURCES:
            return _change_store(state, resource, json_object(body))
        case _:
            raise ValueError(f"nothing to change at {'/'.join(parts)!r}")
    return {"success": True}


def _change_store(state: State, resource: str, order: dict[str, Any]) -> Any:
    store = state.store
    match order["op"]:
        case "create":
            return store.create(resource, order["record"])
        case "update":
            touch = order.get("touch", True)
            return store.update(resource, order["id"], order["record"], touch=touch)
        case "delete":
            return store.delete(resource, order["id"])
        case "put":
            return store.put(resource, order["record"])
    raise ValueError(f"unknown op {order['op']!r}; known: create, update, delete, put")


def _json(value: Any, status: int = 200) -> Response:
    return Response(encode(value), status, media_type="application/json")
