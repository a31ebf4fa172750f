"""One request from its arrival to its answer: key, limits, faults, endpoint, delivery."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from email.utils import formatdate

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from connector.sandbox import faults
from connector.sandbox.rate_limits import limit_headers, retry_after_s
from connector.sandbox.request_checks import Refused, json_object
from connector.sandbox.sandbox_options import EARLY_FAULTS, RESOURCES
from connector.sandbox.state import Answer, AppliedChange, LoggedRequest, State
from connector.sandbox.store import encode
from connector.sandbox.webhooks import polled
from connector.sandbox.writes import Written, fields_by_name, write_activity, write_prospect


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
        params, key = request.query_params.multi_items(), headers.get("x-idempotency-key")
        line = (request.method, request.url.path, params)
        logged = LoggedRequest(*line, self._state.clock.now_s(), body, headers, key)
        self._state.requests.append(logged)
        logged.number = len(self._state.requests)
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
            self._authorize(logged, authorization)
            self._admit(logged, headers)
            logged.fault = self._state.faults.pick(logged)
            done = None if logged.fault in EARLY_FAULTS else await self._carry_out(logged, headers)
            return faults.faulty_answer(logged, done, headers)
        except Refused as refused:
            return _refusal(refused, headers)
        except Exception as error:  # noqa: BLE001 - raised again when the sandbox stops
            self._state.failures.append(error)
            return _refusal(Refused(500, "Sandbox failure", "see the sandbox"), headers)

    def _authorize(self, logged: LoggedRequest, authorization: str) -> None:
        options = self._state.options
        wanted = f"Bearer {options.api_key}".encode()
        if not hmac.compare_digest(authorization.encode(), wanted):
            raise Refused(401, "Unauthorized", "The API key is missing or not valid.")
        resource = logged.parts[0]
        if resource == "auth":
            return
        if not options.active:
            raise Refused(403, "Forbidden", "This API key is not active.")
        verb = "read" if logged.method == "GET" else "write"
        permission = f"{resource if resource in RESOURCES else 'prospects'}:{verb}"
        if permission not in options.permissions:
            raise Refused(403, "Forbidden", f"This API key lacks the permission {permission}.")

    def _admit(self, logged: LoggedRequest, headers: dict[str, str]) -> None:
        """Count a request, and fill `headers` with those of the limits."""
        state = self._state
        verdict = state.limits.arrive(logged.received_s)
        if verdict is None:
            return
        now_s = logged.received_s + state.options.clock_skew_s
        headers |= limit_headers(verdict, state.options, now_s)
        if verdict.wait_s > 0:
            message = f"{verdict.name} limit exceeded. Please try again later."
            raise Refused(429, "Too many requests", message, retryAfter=retry_after_s(verdict))

    async def _carry_out(self, logged: LoggedRequest, headers: Mapping[str, str]) -> Response:
        """The endpoint's answer; a refusal is one, which a fault may change too."""
        try:
            done = await _run_once(self._state, logged)
        except Refused as refused:
            return _refusal(refused, headers)
        return faults.json_response(done.body, done.status, headers)


def _refusal(refused: Refused, headers: Mapping[str, str]) -> Response:
    return faults.json_response(orjson.dumps(refused.as_json()), refused.status, headers)


# --- what each endpoint does: a 2xx, or Refused ----------------------------------------------


async def _run_once(state: State, request: LoggedRequest) -> Answer:
    """Wait for the latency and run a request, or replay what its idempotency key already got."""
    key = request.idempotency_key if request.method in ("POST", "DELETE") else None
    if key is None:
        await faults.pause(state.options.latency_s)
        return _run(state, request)
    now_s, ttl_s = state.clock.now_s(), state.options.keys_ttl_s
    fingerprint = f"{request.method} {request.path} {hashlib.sha256(request.body).hexdigest()}"
    kept = state.keys.begin(key, fingerprint, now_s, ttl_s)
    if kept is not None:
        request.replayed = True
        return kept
    try:
        await faults.pause(state.options.latency_s)
        done = _run(state, request)
    except BaseException:
        state.keys.abandon(key)
        raise
    state.keys.finish(key, done, state.clock.now_s())
    return done


def _run(state: State, request: LoggedRequest) -> Answer:
    known: set[str] = set()
    try:
        match request.method, *request.parts:
            case "GET", resource if resource in RESOURCES:
                known = state.listing.known_parameters(resource)
                body = state.listing.answer(resource, request.params, state.clock.now_s())
                return Answer(200, body)
            case "GET", resource, record_id if resource in RESOURCES:
                return Answer(200, _one(state, resource, record_id))
            case "GET", "auth":
                return Answer(200, _key_facts(state))
            case "GET", "webhooks", "poll":
                known = {"eventType", "accountId"}
                return Answer(200, polled(state.store, state.options, dict(request.params)))
            case "POST", resource if resource in RESOURCES:
                return _post(state, request, resource)
            case "DELETE", resource, record_id if resource in RESOURCES:
                return _delete(state, request, resource, record_id)
            case "POST", "webhooks", "subscribe":
                made = state.webhooks.subscribe(json_object(request.body))
                return Answer(201, orjson.dumps(made))
            case "GET" | "POST" | "DELETE", *_:
                message = f"{request.method} {request.path} doesn't exist"
                raise Refused(404, "Not found", message)
    finally:
        state.unknown_parameters += [name for name, _ in request.params if name not in known]
    raise Refused(405, "Method not allowed", f"{request.method} is not known here")


def _one(state: State, resource: str, record_id: str) -> bytes:
    record = state.store.get(resource, record_id)
    if record is None:
        raise Refused(404, "Not found", f"{resource}: no record {record_id!r}")
    return encode({"success": True, "item": record})


def _key_facts(state: State) -> bytes:
    options = state.options
    facts = {
        "accountId": options.account_id,
        "permissions": options.permissions,
        "active": options.active,
    }
    return encode({"success": True, "item": facts} if options.auth_under_item else facts)


def _post(state: State, request: LoggedRequest, resource: str) -> Answer:
    payload = json_object(request.body)
    store, options = state.store, state.options
    if resource == "prospects":
        written = write_prospect(store, options, payload)
    else:
        written = write_activity(store, options, resource, payload, state.clock.now_ms())
    known = fields_by_name(resource, options)
    state.unknown_fields += [name for name in payload if name not in known]
    _log_applied(state, request, resource, written, payload)
    body = {"success": True, "item": written.record}
    if written.message:
        body["message"] = written.message
    return Answer(written.status, encode(body))


def _delete(state: State, request: LoggedRequest, resource: str, record_id: str) -> Answer:
    try:
        state.store.delete(resource, record_id)
    except KeyError:
        raise Refused(404, "Not found", f"{resource}: no record {record_id!r}") from None
    _log_applied(state, request, resource, Written(200, "deleted", {"id": record_id}), None)
    return Answer(200, b'{"success":true}')


def _log_applied(
    state: State, request: LoggedRequest, resource: str, written: Written, payload: object
) -> None:
    if written.action is not None:
        facts = (resource, written.record["id"], written.action, request.idempotency_key, payload)
        state.applied.append(AppliedChange(*facts, at_s=state.clock.now_s()))
