"""Webhooks of the mock API: subscriptions, signed deliveries, and the poll feed.

Deliveries go to this machine only, from a thread of their own. What happens to them is drawn from
the sandbox's seed, in the order of the changes.
"""

from __future__ import annotations

import hmac
import ipaddress
import random
import secrets
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from connector.sandbox.generated_records import PIPELINES, USERS, Record
from connector.sandbox.request_checks import bad_request, checked, one_of, required_text
from connector.sandbox.sandbox_options import SandboxOptions
from connector.sandbox.store import encode

if TYPE_CHECKING:
    from connector.sandbox.state import ServerClock
    from connector.sandbox.store import Store

EVENT_TYPES = ("prospect.created", "prospect.updated")
POLLED = 25
TIMEOUT_S = 10.0
_HEADERS = {
    "current": ("X-HiringCenter-Signature",),
    "older": ("X-HiringCenter-Pro-Signature",),
    "both": ("X-HiringCenter-Signature", "X-HiringCenter-Pro-Signature"),
}


@dataclass
class Subscription:
    """facts: what the API says of it. secrets: the current one first; each signs deliveries."""

    facts: dict[str, Any]
    secrets: list[str]


@dataclass(eq=False)
class Delivery:
    """One event on its way to one subscription. statuses: of each try; 0: no answer."""

    subscription: Subscription
    body: bytes
    statuses: list[int] = field(default_factory=list)


class Webhooks:
    """sent: every delivery that was tried to its end. dropped: how many were never tried."""

    def __init__(self, options: SandboxOptions, clock: ServerClock) -> None:
        self._options, self._clock = options, clock
        self.subscriptions: dict[tuple[str, str], Subscription] = {}
        self.sent: list[Delivery] = []
        self.dropped = 0
        self._random = random.Random(options.seed)
        self._lock = threading.Lock()
        self._sender = ThreadPoolExecutor(1, "webhooks")  # one by one, in order
        self._queued: list[Future[None]] = []
        self._held: Delivery | None = None  # it comes after the next one
        self._stopped = threading.Event()

    # --- subscribing ----------------------------------------------------------------------------

    def subscribe(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """A new subscription, or the existing one for this address and event.

        Raises:
            Refused: 400 for a missing or wrong field.
        """
        checks = {"hookUrl": required_text, "eventType": one_of(*EVENT_TYPES)}
        check_account(self._options, payload)
        order = checked(payload, checks, required=checks)
        now_ms, key = self._clock.now_ms(), (order["hookUrl"], order["eventType"])
        shown_once = {}
        with self._lock:
            if key not in self.subscriptions:
                ids = {"subscriptionId": uuid.uuid4().hex, "hookId": uuid.uuid4().hex}
                facts = {**ids, **order, "subscribed": True, "createdAt": now_ms}
                self.subscriptions[key] = Subscription(facts, [_new_secret()])
                shown_once = {"endpointSecret": self.subscriptions[key].secrets[0]}
            self.subscriptions[key].facts["updatedAt"] = now_ms
            return {**self.subscriptions[key].facts, **shown_once}

    # --- delivering -----------------------------------------------------------------------------

    def changed(self, action: str, record: Record, fields: Mapping[str, Any]) -> None:
        """A prospect was created or updated. fields: those that were set."""
        event_type = f"prospect.{action}"
        with self._lock:
            for one in self.subscriptions.values():
                if one.facts["eventType"] == event_type and not self._stopped.is_set():
                    self._deliver(one, record, fields)

    def _deliver(self, one: Subscription, record: Record, fields: Mapping[str, Any]) -> None:
        options, drawn = self._options, self._random
        if drawn.random() < options.webhook_drops:
            self.dropped += 1
            return
        body = self._body(one.facts["eventType"], record, fields)
        copies = 2 if drawn.random() < options.webhook_duplicates else 1
        made = [Delivery(one, body) for _ in range(copies)]
        held, self._held = self._held, None
        if held is not None:
            made.append(held)
        elif drawn.random() < options.webhook_reordered:
            self._held = made.pop()
        self._queued += [self._sender.submit(self._try_to_its_end, each) for each in made]

    def _body(self, event_type: str, record: Record, fields: Mapping[str, Any]) -> bytes:
        """thin: the id alone. partial: with the changed fields. unknown: no id that says so."""
        about: dict[str, Any] = {"eventType": event_type, "accountId": self._options.account_id}
        match self._options.webhook_payload:
            case "thin":
                about["prospectId"] = record["id"]
            case "partial":
                changed = {name: record.get(name) for name in fields}
                about["data"] = {**changed, "id": record["id"]}
            case "unknown":
                about = {"kind": event_type, "what": {"reference": record["id"]}}
            case _:
                about |= {"eventId": f"evt_{uuid.uuid4().hex}", "createdAt": self._clock.now_ms()}
                about["data"] = record
        return encode(about)

    def flush(self, timeout_s: float = 60.0) -> None:
        """Wait until everything was tried to its end, what was held back too.

        Raises:
            TimeoutError: it wasn't.
        """
        with self._lock:
            if self._held is not None:
                self._queued.append(self._sender.submit(self._try_to_its_end, self._held))
                self._held = None
            queued = list(self._queued)
        ended, left = wait(queued, timeout_s)
        for each in ended:
            each.result()
        if left:
            raise TimeoutError("deliveries are still on their way")

    def stop(self) -> None:
        """Drop what waits, and end the thread."""
        with self._lock:
            self._stopped.set()
        self._sender.shutdown(cancel_futures=True)

    def _try_to_its_end(self, delivery: Delivery) -> None:
        """Until it is taken, or was tried often enough; those behind it wait."""
        while not self._stopped.is_set():
            status = self._send(delivery)
            delivery.statuses.append(status)
            if 200 <= status < 300 or len(delivery.statuses) > self._options.webhook_retries:
                self.sent.append(delivery)
                return
            self._stopped.wait(self._options.webhook_retry_s)

    def _send(self, delivery: Delivery) -> int:
        url = delivery.subscription.facts["hookUrl"]
        if not _is_here(url):
            return 0
        now_s = int(self._clock.now_s() + self._options.clock_skew_s)
        signed = f"{now_s}.".encode() + delivery.body
        keys = map(str.encode, delivery.subscription.secrets)
        macs = [f"v1={hmac.new(key, signed, 'sha256').hexdigest()}" for key in keys]
        signature = ",".join([f"t={now_s}", *macs])
        headers = {"Content-Type": "application/json"}
        headers |= dict.fromkeys(_HEADERS[self._options.webhook_header], signature)
        request = urllib.request.Request(url, delivery.body, headers, method="POST")  # noqa: S310
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return int(error.code)
        except OSError:
            return 0


def _new_secret() -> str:
    return f"whsec_{secrets.token_hex(24)}"


def _is_here(url: str) -> bool:
    """Whether it is an address of this machine: a mock must not send anything elsewhere."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# --- polling --------------------------------------------------------------------------------------

_NAMES = (
    "id", "first_name", "last_name", "email", "phone", "title", "company", "street_address", "city",
    "state", "postal_code", "country", "latitude", "longitude", "time_zone",
)  # fmt: skip
_PIPELINE_OF = {stage: pipeline for pipeline, stage in PIPELINES.items()}


def check_account(options: SandboxOptions, order: Mapping[str, Any]) -> None:
    """Raise Refused (400) where the account has to be named, and isn't."""
    if options.webhook_account_needed and order.get("accountId") != options.account_id:
        raise bad_request("accountId: is required, since this key has several accounts")


def polled(store: Store, options: SandboxOptions, order: Mapping[str, str]) -> bytes:
    """The latest prospects, flat, in snake_case, with ISO 8601 times.

    Raises:
        Refused: 400 for another event than prospect.created.
    """
    check_account(options, order)
    event_type = order.get("eventType")
    if event_type not in (None, "prospect.created"):
        raise bad_request("eventType: only prospect.created can be polled")
    with store.lock:
        table = store.table("prospects")
        serials = table.serials()
        if table.order_name != "newest":  # the latest ones were added last
            serials = iter(sorted(serials, reverse=True))
        found = [table.record(serial) for serial in islice(serials, POLLED)]
    return orjson.dumps([_flat(each) for each in found if isinstance(each, dict)])


def _flat(record: Record) -> dict[str, Any]:
    stage_id, source = record.get("currentStageId"), record.get("source")
    pipeline_id = _PIPELINE_OF.get(str(stage_id))
    paired = {
        "stage": (stage_id, record.get("currentStage")),
        "pipeline": (pipeline_id, pipeline_id),
        "office": (None, None),
        "source": (source, source),
        "owner": (record.get("userId") or USERS[0], "Sam Owner"),
    }
    row = {name: record.get(_camel(name)) for name in _NAMES}
    for name, (its_id, its_name) in paired.items():
        row[f"{name}_id"], row[f"{name}_name"] = its_id, its_name
    times = {name: _iso(record.get(_camel(name))) for name in ("created_at", "updated_at")}
    return {**row, **times}


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(each.title() for each in others)


def _iso(value: Any) -> Any:
    if not isinstance(value, int):
        return value
    return datetime.fromtimestamp(value / 1000, UTC).isoformat(timespec="milliseconds")
