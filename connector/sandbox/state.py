"""Everything one running sandbox knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from connector.sandbox.clock import ServerClock
from connector.sandbox.faults import FaultPicker
from connector.sandbox.idempotency import IdempotencyKeys
from connector.sandbox.listing import Listing
from connector.sandbox.log import LoggedRequest, RequestLog
from connector.sandbox.options import SandboxOptions
from connector.sandbox.rate import RateLimits
from connector.sandbox.store import Store


@dataclass
class State:
    """failures: exceptions of the sandbox itself or of `on_request`, which a test must not miss."""

    options: SandboxOptions
    clock: ServerClock = field(default_factory=ServerClock)
    log: RequestLog = field(default_factory=RequestLog)
    keys: IdempotencyKeys = field(default_factory=IdempotencyKeys)
    failures: list[Exception] = field(default_factory=list)
    on_request: Callable[[LoggedRequest], None] | None = None

    def __post_init__(self) -> None:
        self.store = Store(self.options, self.clock)
        self.listing = Listing(self.store, self.options)
        self.limits = RateLimits(self.options)
        self.faults = FaultPicker(self.options)
