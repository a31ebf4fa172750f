"""Accounts of any size, pulled every hour for weeks, in virtual time and without a network.

The plans are those of the connector (`plan_scans`, `begin`), the state goes through its JSON, and a
pull takes as long as the budget's own forecast says. Only the rows are made up: a list is a line
from 0 to 1, and a scan of it is a stretch of that line, read between two times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import ceil
from typing import Any

from connector.budget.policy.permits import Constraint, forecast
from connector.settings import PullSettings, RateLimit
from connector.source.scan_planner import Events, plan_scans
from connector.source.scans import ScanKind, ScanOutcome, ScanPlan, begin, list_state
from pipelines.pull.events import PROBE_EVERY_S

HOUR_S, DAY_S = 3600, 86_400
PAGE = 200
SIZES = {"prospects": 1.0, "notes": 0.5, "tasks": 0.2, "meetings": 0.1}  # per prospect
LIMITS = (RateLimit(300, 60.0), RateLimit(6000, 3600.0))
EDITED_DAILY = 0.02
ADDED_DAILY = 0.001
PUSHED_DAILY = 20_000
IN_FILTER = {"tasks": 0.2, "meetings": 0.2}  # open, near
EDITS_IN_FILTER = 0.8
_BEGIN_S = 1_800_000_000.0


@dataclass(frozen=True)
class Stretch:
    """A part of a list that was read at an even pace. scan: the number of its full scan."""

    begin_s: float
    end_s: float
    first: float
    last: float
    scan: int

    def read_s(self, at: float) -> float:
        """When the row at this place was read."""
        return self.begin_s + (self.end_s - self.begin_s) * (at - self.first) / (
            (self.last - self.first) or 1
        )


@dataclass
class List:
    """One list. ends_s: when its full scans ended. looked_s: when its narrow ones did."""

    name: str
    rows: int
    edits_daily: float
    state: dict[str, Any] = field(default_factory=dict)
    stretches: list[Stretch] = field(default_factory=list)
    ends_s: list[float] = field(default_factory=list)
    looked_s: list[float] = field(default_factory=list)
    full_s: float = _BEGIN_S

    @property
    def pages(self) -> int:
        return ceil(self.rows / PAGE)


@dataclass(frozen=True)
class Pull:
    """requests: with the one for the account. is_daily: a full scan was due or early."""

    begin_s: float
    requests: int
    plans: Mapping[str, tuple[ScanPlan, ...]]

    @property
    def is_daily(self) -> bool:
        return any("due" in plan.reason for plans in self.plans.values() for plan in plans)


@dataclass
class Account:
    """An account with so many people. has_events: webhooks name the people who changed, and each
    is looked up, by drains between the pulls; pushes are muted.

    edited: people a day; None: as EDITED_DAILY says. pushed: rows a day. sizes: rows of each list,
    per person.
    """

    people: int
    has_events: bool = False
    is_still: bool = False
    pull_settings: PullSettings = field(default_factory=PullSettings)
    edited: int | None = None
    pushed: int = PUSHED_DAILY
    sizes: Mapping[str, float] = field(default_factory=lambda: SIZES)
    pulls: list[Pull] = field(default_factory=list)
    lists: dict[str, List] = field(default_factory=dict)
    first_load_s: float = 0.0

    def __post_init__(self) -> None:
        for name, size in self.sizes.items():
            rows = int(self.people * size)
            pushed = self.pushed if name == "prospects" else 0
            edited = rows * EDITED_DAILY if self.edited is None else self.edited * size
            edits = 0.0 if self.is_still else edited + pushed
            self.lists[name] = List(name, rows, edits)

    def run(self, pulls: int) -> None:
        """A first pull, then one at each full hour that finds the one before it ended."""
        at_s = _BEGIN_S
        for _ in range(pulls):
            took_s = self._pull(at_s)
            self.first_load_s = self.first_load_s or took_s
            at_s += HOUR_S * max(1, ceil(took_s / HOUR_S))

    def _pull(self, at_s: float) -> float:
        known = {
            name: list_state(name, each.state, now_ms=_ms(at_s))
            for name, each in self.lists.items()
        }
        plans = plan_scans(
            known, pull=self.pull_settings, limits=LIMITS, now_ms=_ms(at_s),
            events=Events(None) if self.has_events else None,
        )  # fmt: skip
        requests = 1 + (self._look_ups() if self.pulls and self.has_events else 0)
        scans = [(name, plan) for name, made in plans.items() for plan in made]
        for name, plan in sorted(scans, key=lambda each: each[1].kind is ScanKind.FULL):
            pages = self._scan(self.lists[name], plan, at_s, requests)
            requests += pages
        self.pulls.append(Pull(at_s, requests, plans))
        return spend_s(requests)

    def _look_ups(self) -> int:
        """Of drains since the last pull, with the probes of the poll feed."""
        people = self.lists["prospects"]
        changed = people.edits_daily - self.pushed + people.rows * ADDED_DAILY
        return ceil((0 if self.is_still else changed) * HOUR_S / DAY_S + HOUR_S / PROBE_EVERY_S)

    def _scan(self, each: List, plan: ScanPlan, at_s: float, before: int) -> int:
        """Requests of this scan; before: of those that came first."""
        scan = begin(list_state(each.name, each.state, now_ms=_ms(at_s)), plan, now_ms=_ms(at_s))
        begin_s = at_s + spend_s(before)
        if plan.kind is not ScanKind.FULL:
            pages = self._narrow_pages(each, plan, at_s)
            each.looked_s.append(begin_s)
            scan.end(ScanOutcome(False, "", pages=pages, newest_ms={"createdAt": _ms(at_s)}))
            each.state = scan.booked()
            return pages
        done = scan.checkpoint.pages
        pages = min(each.pages - done, plan.max_pages or each.pages)
        end_s = at_s + spend_s(before + pages)
        number = len(each.ends_s)
        each.stretches.append(
            Stretch(begin_s, end_s, done / each.pages, (done + pages) / each.pages, number)
        )
        each.looked_s += [begin_s] if not done else []
        is_over = done + pages >= each.pages
        if is_over:
            each.ends_s.append(end_s)
            is_first = len(each.ends_s) == 1
            missed = 1 - (EDITS_IN_FILTER if each.name in IN_FILTER else 0)
            if self.has_events and each.name == "prospects":
                missed = 0
            found = each.edits_daily * missed * (at_s - each.full_s) / DAY_S
            scan.counts["rows_written"] = each.rows if is_first else int(found)
            each.full_s = at_s
        scan.checkpoint = replace(scan.checkpoint, resume={"seen": {"pages": done + pages}})
        scan.end(
            ScanOutcome(
                is_over, "", pages=done + pages, rows=each.rows, page_size=PAGE, order="createdAt",
                newest_ms={"createdAt": _ms(at_s)}, unfinished=not is_over,
            )
        )  # fmt: skip
        each.state = scan.booked()
        return pages

    def _narrow_pages(self, each: List, plan: ScanPlan, at_s: float) -> int:
        if each.name in IN_FILTER:
            return ceil(each.pages * IN_FILTER[each.name])
        if plan.kind is ScanKind.EVENTS:
            return 0
        since_s = at_s - (each.looked_s[-1] if each.looked_s else _BEGIN_S)
        added = 0 if self.is_still else each.rows * ADDED_DAILY * since_s / DAY_S
        return 1 + int(added / PAGE)

    # --- what readers see -------------------------------------------------------------------------

    def edit_ages_s(self, name: str, *, samples: int = 1000) -> list[float]:
        """How old edits were when a full scan read them, ascending."""
        each = self.lists[name]
        return sorted(
            next(
                (s.read_s(at) - edit_s for s in each.stretches
                 if s.first <= at <= s.last and s.read_s(at) >= edit_s),
                float("inf"),
            )
            for edit_s, at in self._samples(samples)
        )  # fmt: skip

    def deletion_ages_s(self, name: str, *, samples: int = 1000) -> list[float]:
        """How long rows were deleted before the full scan that missed them ended, ascending."""
        each = self.lists[name]
        ages = []
        for gone_s, at in self._samples(samples):
            scans = (s.scan for s in each.stretches
                     if s.first <= at <= s.last and s.read_s(at) >= gone_s)  # fmt: skip
            number = next(scans, len(each.ends_s))
            ended = number < len(each.ends_s)
            ages.append(each.ends_s[number] - gone_s if ended else float("inf"))
        return sorted(ages)

    def addition_ages_s(self, name: str, *, samples: int = 1000) -> list[float]:
        """How old new rows were when the first scan read the beginning of the list, ascending."""
        looked_s = self.lists[name].looked_s
        return sorted(
            next((each - added_s for each in looked_s if each >= added_s), float("inf"))
            for added_s, _ in self._samples(samples)
        )

    def _samples(self, count: int) -> Iterator[tuple[float, float]]:
        """Times in the second and third fifth of all, each with a place, both evenly spread."""
        begin_s, end_s = self.pulls[1].begin_s, self.pulls[-1].begin_s
        for number in range(count):
            share = 0.2 + 0.4 * number / count
            yield begin_s + (end_s - begin_s) * share, number * 0.618_033_988_75 % 1

    def requests_daily(self) -> float:
        """Of pulls after the first one."""
        later = self.pulls[1:]
        span_s = later[-1].begin_s - later[0].begin_s + HOUR_S
        return sum(each.requests for each in later) * DAY_S / span_s


def percentile(ascending: list[float], share: float) -> float:
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]


@lru_cache(maxsize=4096)
def spend_s(requests: int) -> float:
    """Seconds until so many requests are answered, while the daily pushes run."""
    bounds = [
        Constraint(int(limit.limit - PUSHED_DAILY * limit.length_s / DAY_S), limit.length_s, [])
        for limit in LIMITS
    ]
    return forecast(bounds, requests, now_s=0.0, latency_s=0.3).done_s


def _ms(at_s: float) -> int:
    return int(at_s * 1000)
