"""The options of a sandbox, faults included. Each may be changed while it serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from connector.sandbox.state import LoggedRequest

RESOURCES = ("prospects", "notes", "tasks", "meetings")
BASE_TIME_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z, the "now" of generated data
DEFAULT_LIMITS = {"prospects": 25, "notes": 50, "tasks": 50, "meetings": 50}
MAX_LIMIT = 200
ALL_PERMISSIONS = tuple(f"{name}:{verb}" for name in RESOURCES for verb in ("read", "write"))

Envelope = Literal["pagination", "next_token", "legacy", "bare"]
OverLimit = Literal["clamp", "refuse", "unbounded"]
WindowKind = Literal["sliding", "fixed", "weighted", "bucket"]
ProspectsOrder = Literal["newest", "oldest", "id", "shuffled", "recently_updated"]
Duration = float | tuple[float, float]
Script = Mapping[int, str | None] | Sequence[str | None] | Callable[["LoggedRequest"], str | None]

# before the change: the request is counted, and nothing is read or written
EARLY_FAULTS = (
    "drop_before", "error_500", "error_503", "html_502", "bare_429", "dated_429", "redirect",
)  # fmt: skip
# after the change: it was applied, and the answer is lost, late or damaged
LATE_FAULTS = (
    "drop_after", "error_500_after", "html_502_after", "html_200", "truncate", "stall", "hang",
    "slow_body", "wrong_json", "wrong_content_type",
)  # fmt: skip
FAULT_NAMES = EARLY_FAULTS + LATE_FAULTS


class Faults:
    """The probability (0..1) of each fault, drawn once per request; their sum is at most 1.

    drop_before: connection closed, nothing applied · drop_after: applied, then closed unanswered ·
    error_500, error_503: `Error` as JSON · html_502: a proxy's page · error_500_after,
    html_502_after: the same after the change was applied · html_200: a page that claims success ·
    bare_429: no `Retry-After`, no window headers · dated_429: `Retry-After` as an HTTP date ·
    redirect: 302 to another host · truncate: half a body, then closed · stall: half a body, then
    silence · hang: no answer at all · slow_body: the body in small pieces · wrong_json: a body
    that isn't JSON, or not of the promised shape · wrong_content_type: the right body labelled
    text/html. reads, writes: which requests may meet faults.

    Raises:
        ValueError: an unknown fault, or probabilities that add up to more than 1.
    """

    def __init__(
        self, *, reads: bool = True, writes: bool = True, seed: int = 1, **probabilities: float
    ) -> None:
        self.reads, self.writes, self.seed = reads, writes, seed
        if unknown := sorted(set(probabilities) - set(FAULT_NAMES)):
            raise ValueError(f"unknown fault {unknown[0]!r}; known: {', '.join(FAULT_NAMES)}")
        self.probabilities = {name: p for name in FAULT_NAMES if (p := probabilities.get(name))}
        total = sum(self.probabilities.values())
        if total > 1 + 1e-9:
            raise ValueError(f"the probabilities of all faults add up to {total}, which is above 1")

    @classmethod
    def evenly(cls, total: float, *, seed: int = 1, without: Sequence[str] = ()) -> Faults:
        """Every fault but `redirect` (which is terminal) and `without`, sharing `total`."""
        names = [name for name in FAULT_NAMES if name not in {"redirect", *without}]
        return cls(seed=seed, **dict.fromkeys(names, total / len(names)))  # type: ignore[arg-type]


@dataclass(kw_only=True)
class SandboxOptions:
    """Data: how many records of each resource, from `seed`, with times relative to `base_time_ms`
        (ms). The same values give the same bytes on every machine.
    envelope: one revision for all lists, or one per resource (missing: "pagination").
    prospects_paged: whether prospects have page tokens at all. total_count: whether prospects'
        lists have `totalCount`, if their revision has that field.
    max_limits: rows per page; resources left out keep the contract's, 200. over_limit: what happens
        above the maximum, for all lists or per resource.
    token_kind: "offset" (pages drift when rows are added or deleted) or "keyset". token_ttl_s: an
        older token gets a 400; None = never.
    windows: (limit, length in s) each; None = unlimited. window_alignment_s shifts the boundaries
        of fixed and weighted windows. retry_after: its form in a real 429. count_refused: whether a
        refused request uses the window too.
    keys_ttl_s: how long an idempotency key is remembered; None = forever.
    on_match_without_update: what `update: false` answers when a prospect matches: 409, or 200
        with the untouched record.
    labels_written: whether labels replace those of a match, or are merged with them.
    write_names: names of fields accepted in writes ("older": `note`, `assignTo`, `due`).
    uplink_s: before the request is counted. latency_s: between counting and the change. Both in s,
        a number or (low, high).
    webhook_payload: what events hold: the whole record, its id, its changed fields and id, or a
        format in which no id can be found. webhook_header: the name of the signature's header.
        webhook_account_needed: whether subscribing and polling need the `accountId`.
        webhook_duplicates, webhook_reordered, webhook_drops: the probability of each; a reordered
        event comes after the next one. webhook_retries: further tries, webhook_retry_s apart.
    script: the fault of the nth request (1 = first since the log was cleared), before
        probabilities: a dict by n, a list, or a callable (LoggedRequest) → name or None. In a dict
        or list, None means no fault; from a callable, it leaves it to the probabilities.
    """

    prospects: int = 300
    notes: int = 200
    tasks: int = 120
    meetings: int = 70
    seed: int = 1
    base_time_ms: int = BASE_TIME_MS

    api_key: str = "sandbox-key"
    account_id: str = "acct_sandbox"
    active: bool = True
    permissions: tuple[str, ...] = ALL_PERMISSIONS
    auth_under_item: bool = False

    envelope: Envelope | Mapping[str, Envelope] = "pagination"
    prospects_paged: bool = True
    prospects_order: ProspectsOrder = "newest"
    total_count: bool = True
    max_limits: Mapping[str, int | None] = field(default_factory=dict)
    over_limit: OverLimit | Mapping[str, OverLimit] = "clamp"
    token_kind: Literal["offset", "keyset"] = "offset"  # noqa: S105 - no password
    token_ttl_s: float | None = None

    windows: Sequence[tuple[int, float]] | None = None
    window_kind: WindowKind = "sliding"
    window_alignment_s: float = 0.0
    reset_style: Literal["delta", "epoch"] = "delta"
    retry_after: Literal["delta", "date", "absent"] = "delta"
    count_refused: bool = False

    keys_ttl_s: float | None = None
    update_default: bool = True
    on_match_without_update: Literal["conflict", "existing"] = "conflict"
    labels_written: Literal["replace", "merge"] = "replace"
    write_names: Literal["current", "older", "both"] = "current"

    uplink_s: Duration = 0.0
    latency_s: Duration = 0.0
    clock_skew_s: float = 0.0
    faults: Faults = field(default_factory=Faults)
    script: Script | None = None
    webhook_payload: Literal["whole", "thin", "partial", "unknown"] = "whole"
    webhook_header: Literal["current", "older", "both"] = "current"
    webhook_account_needed: bool = False
    webhook_duplicates: float = 0.0
    webhook_reordered: float = 0.0
    webhook_drops: float = 0.0
    webhook_retries: int = 3
    webhook_retry_s: float = 1.0
    stall_s: float = 30.0
    slow_body_s: float = 0.5

    def envelope_of(self, resource: str) -> Envelope:
        one = self.envelope
        return one if isinstance(one, str) else one.get(resource, "pagination")

    def over_limit_of(self, resource: str) -> OverLimit:
        one = self.over_limit
        return one if isinstance(one, str) else one.get(resource, "clamp")

    def max_limit_of(self, resource: str) -> int | None:
        """Rows; None = no maximum."""
        return self.max_limits.get(resource, MAX_LIMIT)


def change_options(options: SandboxOptions, changes: Mapping[str, object]) -> None:
    """Set `options` from JSON values: `faults` is an object of probabilities.

    Raises:
        ValueError: the name of an unknown option or fault; the message lists the known ones.
    """
    known = {each.name for each in fields(SandboxOptions)}
    for name, value in changes.items():
        if name not in known:
            raise ValueError(f"unknown option {name!r}; known: {', '.join(sorted(known))}")
        setattr(options, name, _coerced(name, value))


def _coerced(name: str, value: object) -> object:
    if name == "faults" and isinstance(value, Mapping):
        return Faults(**value)
    if name == "script" and isinstance(value, Mapping):
        return {int(nth): fault for nth, fault in value.items()}
    if name == "windows" and isinstance(value, list):
        return tuple((int(limit), float(length_s)) for limit, length_s in value)
    return tuple(value) if isinstance(value, list) else value
