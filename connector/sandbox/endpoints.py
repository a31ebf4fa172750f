"""What each endpoint answers, once a request was let in."""

from __future__ import annotations

import hashlib

from connector.sandbox import activities, validation, webhooks, writes
from connector.sandbox.encoding import encode
from connector.sandbox.errors import Refused
from connector.sandbox.idempotency import Answer
from connector.sandbox.log import AppliedChange, LoggedRequest
from connector.sandbox.options import RESOURCES
from connector.sandbox.state import State
from connector.sandbox.wire import pause
from connector.sandbox.writes import Written

BASE_PATH = "/v2"


async def answer(state: State, request: LoggedRequest) -> Answer:
    """Wait for the latency, do what is asked, and say so.

    Raises:
        Refused: whatever isn't a 2xx.
    """
    place = request.path.removeprefix(BASE_PATH).strip("/").split("/")
    if request.method in ("POST", "DELETE"):
        return await _write_once(state, request, place)
    if request.method != "GET":
        raise Refused(405, "Method not allowed", f"{request.method} is not known here")
    await pause(state.options.latency_s)
    return _read(state, request, place)


def needed_permission(request: LoggedRequest) -> str | None:
    """The permission that a request needs; None = any key will do."""
    resource = request.path.removeprefix(BASE_PATH).strip("/").split("/")[0]
    if resource == "auth":
        return None
    verb = "read" if request.method == "GET" else "write"
    return f"{resource if resource in RESOURCES else 'prospects'}:{verb}"


def _read(state: State, request: LoggedRequest, place: list[str]) -> Answer:
    unknown = [name for name, _ in request.params]
    try:
        match place:
            case [resource] if resource in RESOURCES:
                unknown = state.listing.unknown(resource, request.params)
                return Answer(
                    200, state.listing.answer(resource, request.params, state.clock.now_s())
                )
            case [resource, record_id] if resource in RESOURCES:
                return Answer(200, _one(state, resource, record_id))
            case ["auth"]:
                return Answer(200, _key_facts(state))
            case ["webhooks", "poll"]:
                unknown = [name for name in unknown if name != "eventType"]
                return Answer(200, webhooks.poll(state.store, request.params))
    finally:
        state.log.unknown_parameters.extend(unknown)
    raise _not_found(request)


def _one(state: State, resource: str, record_id: str) -> bytes:
    record = state.store.get(resource, record_id)
    if record is None:
        raise Refused(404, "Not found", f"{resource}: no record {record_id!r}")
    return encode({"success": True, state.options.one_item_name: record})


def _key_facts(state: State) -> bytes:
    options = state.options
    facts = {
        "accountId": options.account_id,
        "permissions": options.permissions,
        "active": options.active,
    }
    return encode(
        {"success": True, options.one_item_name: facts} if options.auth_under_item else facts
    )


async def _write_once(state: State, request: LoggedRequest, place: list[str]) -> Answer:
    """Run a write, or replay the answer that its idempotency key already has."""
    state.log.unknown_parameters.extend(name for name, _ in request.params)
    key = request.idempotency_key
    if key is None:
        await pause(state.options.latency_s)
        return _write(state, request, place)
    now_s, ttl_s = state.clock.now_s(), state.options.keys_ttl_s
    kept = state.keys.begin(key, _fingerprint(request), now_s, ttl_s)
    if kept is not None:
        request.replayed = True
        return kept
    try:
        await pause(state.options.latency_s)
        done = _write(state, request, place)
    except BaseException:
        state.keys.abandon(key)
        raise
    state.keys.finish(key, done, state.clock.now_s())
    return done


def _fingerprint(request: LoggedRequest) -> str:
    return f"{request.method} {request.path} {hashlib.sha256(request.body).hexdigest()}"


def _write(state: State, request: LoggedRequest, place: list[str]) -> Answer:
    match request.method, place:
        case "POST", [resource] if resource in RESOURCES:
            return _post(state, request, resource)
        case "DELETE", [resource, record_id] if resource in RESOURCES:
            return _delete(state, request, resource, record_id)
        case "POST", ["webhooks", "subscribe"]:
            return Answer(201, webhooks.subscribe(validation.json_object(request.body)))
    raise _not_found(request)


def _post(state: State, request: LoggedRequest, resource: str) -> Answer:
    payload = validation.json_object(request.body)
    store, options = state.store, state.options
    if resource == "prospects":
        known = set(writes.PROSPECT_CHECKS)
        written = writes.write_prospect(store, options, payload)
    else:
        known = activities.known_fields(resource, options)
        written = activities.write_activity(store, options, resource, payload, state.clock.now_ms())
    state.log.unknown_fields.extend(name for name in payload if name not in known)
    _log_applied(state, request, resource, written, payload)
    said = {"message": written.message} if written.message else {}
    return Answer(
        written.status, encode({"success": True, options.one_item_name: written.record, **said})
    )


def _log_applied(
    state: State, request: LoggedRequest, resource: str, written: Written, payload: object
) -> None:
    if written.action is not None:
        change = (resource, written.record["id"], written.action, request.idempotency_key, payload)
        state.log.applied.append(AppliedChange(*change, at_s=state.clock.now_s()))


def _delete(state: State, request: LoggedRequest, resource: str, record_id: str) -> Answer:
    try:
        state.store.delete(resource, record_id)
    except KeyError:
        raise Refused(404, "Not found", f"{resource}: no record {record_id!r}") from None
    _log_applied(state, request, resource, Written(200, "deleted", {"id": record_id}), None)
    return Answer(200, b'{"success":true}')


def _not_found(request: LoggedRequest) -> Refused:
    return Refused(404, "Not found", f"{request.method} {request.path} doesn't exist")
