"""What each endpoint answers, once a request is admitted."""

from __future__ import annotations

import hashlib

import orjson

from connector.sandbox import request_checks as check
from connector.sandbox.faults import pause
from connector.sandbox.request_checks import Refused
from connector.sandbox.sandbox_options import RESOURCES
from connector.sandbox.state import Answer, AppliedChange, LoggedRequest, State
from connector.sandbox.table import encode
from connector.sandbox.webhooks import polled
from connector.sandbox.writes import (
    PROSPECT_CHECKS,
    Written,
    known_fields,
    write_activity,
    write_prospect,
)

BASE_PATH = "/v2"


async def answer(state: State, request: LoggedRequest) -> Answer:
    """Wait for the latency, then carry out the request. Refused: any answer that isn't a 2xx."""
    parts = request.path.removeprefix(BASE_PATH).strip("/").split("/")
    if request.method in ("POST", "DELETE"):
        return await _write_once(state, request, parts)
    if request.method != "GET":
        raise Refused(405, "Method not allowed", f"{request.method} is not known here")
    await pause(state.options.latency_s)
    return _read(state, request, parts)


def needed_permission(request: LoggedRequest) -> str | None:
    """The permission that a request needs; None = any key will do."""
    resource = request.path.removeprefix(BASE_PATH).strip("/").split("/")[0]
    if resource == "auth":
        return None
    verb = "read" if request.method == "GET" else "write"
    return f"{resource if resource in RESOURCES else 'prospects'}:{verb}"


def _read(state: State, request: LoggedRequest, parts: list[str]) -> Answer:
    unknown = [name for name, _ in request.params]
    try:
        match parts:
            case [resource] if resource in RESOURCES:
                unknown = state.listing.unknown(resource, request.params)
                body = state.listing.answer(resource, request.params, state.clock.now_s())
                return Answer(200, body)
            case [resource, record_id] if resource in RESOURCES:
                return Answer(200, _one(state, resource, record_id))
            case ["auth"]:
                return Answer(200, _key_facts(state))
            case ["webhooks", "poll"]:
                unknown = [name for name in unknown if name not in ("eventType", "accountId")]
                return Answer(200, polled(state.store, state.options, dict(request.params)))
    finally:
        state.unknown_parameters.extend(unknown)
    raise _not_found(request)


def _one(state: State, resource: str, record_id: str) -> bytes:
    record = state.store.get(resource, record_id)
    if record is None:
        raise Refused(404, "Not found", f"{resource}: no record {record_id!r}")
    return encode({"success": True, state.options.one_item_name: record})


def _key_facts(state: State) -> bytes:
    options = state.options
    names = {"accountId": "account_id", "permissions": "permissions", "active": "active"}
    facts = {name: getattr(options, field) for name, field in names.items()}
    if options.auth_under_item:
        facts = {"success": True, options.one_item_name: facts}
    return encode(facts)


async def _write_once(state: State, request: LoggedRequest, parts: list[str]) -> Answer:
    """Run a write, or replay the answer that its idempotency key already got."""
    state.unknown_parameters.extend(name for name, _ in request.params)
    key = request.idempotency_key
    if key is None:
        await pause(state.options.latency_s)
        return _write(state, request, parts)
    now_s, ttl_s = state.clock.now_s(), state.options.keys_ttl_s
    fingerprint = f"{request.method} {request.path} {hashlib.sha256(request.body).hexdigest()}"
    kept = state.keys.begin(key, fingerprint, now_s, ttl_s)
    if kept is not None:
        request.replayed = True
        return kept
    try:
        await pause(state.options.latency_s)
        done = _write(state, request, parts)
    except BaseException:
        state.keys.abandon(key)
        raise
    state.keys.finish(key, done, state.clock.now_s())
    return done


def _write(state: State, request: LoggedRequest, parts: list[str]) -> Answer:
    match request.method, parts:
        case "POST", [resource] if resource in RESOURCES:
            return _post(state, request, resource)
        case "DELETE", [resource, record_id] if resource in RESOURCES:
            return _delete(state, request, resource, record_id)
        case "POST", ["webhooks", "subscribe"]:
            made = state.webhooks.subscribe(check.json_object(request.body))
            return Answer(201, orjson.dumps(made))
    raise _not_found(request)


def _post(state: State, request: LoggedRequest, resource: str) -> Answer:
    payload = check.json_object(request.body)
    store, options = state.store, state.options
    if resource == "prospects":
        known = set(PROSPECT_CHECKS)
        written = write_prospect(store, options, payload)
    else:
        known = known_fields(resource, options)
        written = write_activity(store, options, resource, payload, state.clock.now_ms())
    state.unknown_fields.extend(name for name in payload if name not in known)
    _log_applied(state, request, resource, written, payload)
    body = {"success": True, options.one_item_name: written.record}
    if written.message:
        body["message"] = written.message
    return Answer(written.status, encode(body))


def _log_applied(
    state: State, request: LoggedRequest, resource: str, written: Written, payload: object
) -> None:
    if written.action is not None:
        facts = (resource, written.record["id"], written.action, request.idempotency_key, payload)
        state.applied.append(AppliedChange(*facts, at_s=state.clock.now_s()))


def _delete(state: State, request: LoggedRequest, resource: str, record_id: str) -> Answer:
    try:
        state.store.delete(resource, record_id)
    except KeyError:
        raise Refused(404, "Not found", f"{resource}: no record {record_id!r}") from None
    _log_applied(state, request, resource, Written(200, "deleted", {"id": record_id}), None)
    return Answer(200, b'{"success":true}')


def _not_found(request: LoggedRequest) -> Refused:
    return Refused(404, "Not found", f"{request.method} {request.path} doesn't exist")
