"""What a push did, as facts for machines and for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from connector.errors import ConnectorError
from connector.upsert.outbox.planning import PlanCounts
from connector.upsert.outbox.results import RowResult
from connector.upsert.outbox.states import Status

EXIT_BAD_ROWS = 3
NOTEWORTHY_MAX = 1_000  # rows; what is beyond is counted alone


@dataclass
class PushReport:
    """What a push did. summary: the JSON of `--json`. error: what ended it early, if anything.

    noteworthy: rejects, failures and warnings, the first of them. notes: about the input and the
    run, for people. exit_code: as the command ends.
    """

    summary: dict[str, Any] = field(default_factory=dict)
    error: ConnectorError | None = None
    noteworthy: list[RowResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        if self.error is not None:
            return self.error.exit_code
        bad = self.summary.get("rejected", 0) + self.summary.get("failed", 0)
        return EXIT_BAD_ROWS if bad else 0


def counted(outcomes: Counter[Status], not_sent: int) -> dict[str, int]:
    """`rows` and its parts, which always add up."""
    return {
        "rows": outcomes.total() + not_sent,
        **{status.value: outcomes[status] for status in Status},
        "not_sent": not_sent,
    }


def outcomes_in_words(summary: Mapping[str, Any]) -> str:
    """`145 created, 3 rejected, 222 to go`."""
    names = ("created", "updated", "unchanged", "kept", "rejected", "failed", "not_sent")
    words = {"not_sent": "to go"}
    return ", ".join(
        f"{summary[name]:,} {words.get(name, name)}" for name in names if summary.get(name)
    )


def forecast(plan: PlanCounts, *, requests: int, eta_s: float) -> dict[str, Any]:
    """What the push would do, as far as that can be told, and until when."""
    untold = plan.to_send - plan.would_create - plan.would_update
    told = {"would_create": plan.would_create, "would_update": plan.would_update}
    return {
        **told,
        **({"would_send": untold} if untold else {}),
        "would_request": requests,
        "eta_s": round(eta_s, 1),
    }
