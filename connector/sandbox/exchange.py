"""One request from its arrival to its answer: key, limits, faults, endpoint, delivery."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from email.utils import formatdate

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from connector.sandbox import api_routes, faults
from connector.sandbox.rate_limits import limit_headers, retry_after_s
from connector.sandbox.request_checks import Refused
from connector.sandbox.sandbox_options import EARLY_FAULTS
from connector.sandbox.state import LoggedRequest, State


class Api:
    """The ASGI application behind every path of the API itself."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        await faults.pause(self._state.options.uplink_s)
        logged = self._arrived(request, body)
        answer = await self._answer(logged, request.headers.get("authorization", ""))
        self._answered(logged, answer)
        if answer is None:
            await faults.drop(scope, receive, reset=logged.number % 2 == 0)
        else:
            await faults.deliver(answer, logged.fault, self._state.options, scope, receive, send)

    def _arrived(self, request: Request, body: bytes) -> LoggedRequest:
        headers = dict(request.headers)
        headers.pop("authorization", None)
        logged = LoggedRequest(
            method=request.method,
            path=request.url.path,
            params=request.query_params.multi_items(),
            received_s=self._state.clock.now_s(),
            body=body,
            headers=headers,
            idempotency_key=headers.get("x-idempotency-key"),
        )
        self._state.arrived(logged)
        return logged

    def _answered(self, logged: LoggedRequest, answer: Response | None) -> None:
        silent = answer is None or logged.fault == "hang"
        logged.status = 0 if silent or answer is None else answer.status_code
        logged.answered_s = self._state.clock.now_s()
        if answer is not None:
            date_s = logged.answered_s + self._state.options.clock_skew_s
            answer.headers["date"] = formatdate(date_s, usegmt=True)

    async def _answer(self, logged: LoggedRequest, authorization: str) -> Response | None:
        """The answer; None to close without one. A bug of the sandbox is a 500, and is kept."""
        headers: dict[str, str] = {}
        try:
            if self._state.on_request is not None:
                self._state.on_request(logged)
            return await self._admit(logged, authorization, headers)
        except Refused as refused:
            return _json(refused.status, orjson.dumps(refused.as_json()), headers)
        except Exception as error:  # noqa: BLE001 - raised again when the sandbox stops
            self._state.failures.append(error)
            return _json(500, b'{"error":"Sandbox failure","message":"see the sandbox"}', headers)

    async def _admit(
        self, logged: LoggedRequest, authorization: str, headers: dict[str, str]
    ) -> Response | None:
        """Answer a request; fills `headers` with those of the limits once it is counted."""
        state = self._state
        self._authorize(logged, authorization)
        verdict = state.limits.arrive(logged.received_s)
        if verdict is not None:
            skewed_s = logged.received_s + state.options.clock_skew_s
            headers |= limit_headers(verdict, state.options, skewed_s)
            if verdict.wait_s > 0:
                message = f"{verdict.name} limit exceeded. Please try again later."
                facts = {"message": message, "retryAfter": retry_after_s(verdict)}
                return _json(429, orjson.dumps({"error": "Too many requests", **facts}), headers)
        logged.fault = state.faults.pick(logged)
        if logged.fault in EARLY_FAULTS:
            return faults.early_answer(logged.fault, state.options, logged.received_s, headers)
        return await self._carry_out(logged, headers)

    async def _carry_out(
        self, logged: LoggedRequest, headers: Mapping[str, str]
    ) -> Response | None:
        """The endpoint's answer, refusals included, as changed by a late fault."""
        try:
            done = await api_routes.answer(self._state, logged)
            answer = _json(done.status, done.body, headers)
        except Refused as refused:
            answer = _json(refused.status, orjson.dumps(refused.as_json()), headers)
        if logged.fault == "drop_after":
            return None
        return faults.late_answer(logged.fault, answer, logged.number, headers)

    def _authorize(self, logged: LoggedRequest, authorization: str) -> None:
        options = self._state.options
        wanted = f"Bearer {options.api_key}".encode()
        if not hmac.compare_digest(authorization.encode(), wanted):
            raise Refused(401, "Unauthorized", "The API key is missing or not valid.")
        permission = api_routes.needed_permission(logged)
        if permission is None:
            return
        if not options.active:
            raise Refused(403, "Forbidden", "This API key is not active.")
        if permission not in options.permissions:
            raise Refused(403, "Forbidden", f"This API key lacks the permission {permission}.")


def _json(status: int, body: bytes, headers: Mapping[str, str]) -> Response:
    return Response(body, status, dict(headers), "application/json")
