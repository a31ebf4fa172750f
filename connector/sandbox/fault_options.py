"""Which faults there are, and how likely each is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Before the change: the request is counted, and nothing is read or written.
EARLY_FAULTS = (
    "drop_before",
    "error_500",
    "error_503",
    "html_502",
    "bare_429",
    "dated_429",
    "redirect",
)
# After the change: it was applied, and the answer is lost, late or damaged.
LATE_FAULTS = (
    "drop_after",
    "error_500_after",
    "html_502_after",
    "html_200",
    "truncate",
    "stall",
    "hang",
    "slow_body",
    "wrong_json",
    "wrong_content_type",
)
FAULT_NAMES = EARLY_FAULTS + LATE_FAULTS


@dataclass(kw_only=True)
class Faults:
    """The probability (0..1) of each fault, drawn once per request; their sum is at most 1.

    drop_before: connection closed, nothing applied · drop_after: applied, then closed unanswered ·
    error_500, error_503: `Error` as JSON · html_502: a proxy's page · error_500_after,
    html_502_after: the same after the change was applied · html_200: a page that claims success ·
    bare_429: no `Retry-After`, no window headers · dated_429: `Retry-After` as an HTTP date ·
    redirect: 302 to another host · truncate: half a body, then closed · stall: half a body, then
    silence · hang: no answer at all · slow_body: the body in small pieces · wrong_json: a body
    that isn't JSON, or not of the promised shape · wrong_content_type: the right body labelled
    text/html.
    """

    error_500: float = 0.0
    error_503: float = 0.0
    html_502: float = 0.0
    drop_before: float = 0.0
    drop_after: float = 0.0
    error_500_after: float = 0.0
    html_502_after: float = 0.0
    html_200: float = 0.0
    truncate: float = 0.0
    stall: float = 0.0
    hang: float = 0.0
    slow_body: float = 0.0
    bare_429: float = 0.0
    dated_429: float = 0.0
    redirect: float = 0.0
    wrong_json: float = 0.0
    wrong_content_type: float = 0.0
    reads: bool = True
    writes: bool = True
    seed: int = 1

    def __post_init__(self) -> None:
        total = sum(self.probabilities().values())
        if total > 1 + 1e-9:
            raise ValueError(f"the probabilities of all faults add up to {total}, which is above 1")

    def probabilities(self) -> dict[str, float]:
        """Fault name → probability, without those that never happen."""
        return {name: p for name in FAULT_NAMES if (p := float(getattr(self, name))) > 0}

    @classmethod
    def evenly(cls, total: float, *, seed: int = 1, without: Sequence[str] = ()) -> Faults:
        """Every fault but `redirect` (which is terminal) and `without`, sharing `total`."""
        names = [name for name in FAULT_NAMES if name not in {"redirect", *without}]
        return cls(seed=seed, **{name: total / len(names) for name in names})  # type: ignore[arg-type]
