"""What accounts of 0.1 to 10 million people cost, in virtual time: plans and budget are real."""

from __future__ import annotations

from connector.logs import configure
from connector.settings import PullSettings
from tests.bench import Row
from tests.simulator.accounts import EDITED_DAILY, LIMITS, Account, percentile

DAILY_BUDGET = LIMITS[1].limit * 24
DAYS = {100_000: 10, 1_000_000: 10, 10_000_000: 60}
COLUMNS = (
    "people", "first load", "requests a day", "of the budget", "new person", "edited person",
    "deleted person",
)  # fmt: skip


def run() -> list[Row]:
    """A row per account, and one with webhooks: each person who changed is looked up, and
    prospects need no narrow scan."""
    configure(-1)  # plans are logged
    return [
        quiet_pulls(),
        *a_day_of_edits(),
        *(_row(people, has_events=events) for people in DAYS for events in (False, True)),
    ]


def quiet_pulls() -> Row:
    """The hourly pull of 180,000 rows with nothing new."""
    account = Account(100_000, is_still=True)
    account.run(49)
    costs = [pull.requests for pull in account.pulls[1:]]
    return Row(
        "180,000 rows, nothing new, 48 hourly pulls: requests",
        f"{sum(costs) / len(costs):.0f}, at most {max(costs)}",
        f"≤ 620; all in full: {account.pulls[0].requests}",
        max(costs) <= 620,
    )


EVENT_AGE_S = 43
"""Within which an edit was readable with webhooks, in 95 of 100 cases: see the bench `events`."""


def a_day_of_edits() -> list[Row]:
    """120,000 people of whom 2,000 are edited: requests a day, and how old edits are when they are
    seen, with events, with the best plan without them, and with a full scan each hour."""
    with_events, without = edited_account(has_events=True), edited_account(has_events=False)
    hourly = 24 * (1 + with_events.lists["prospects"].pages)
    daily, other = with_events.requests_daily(), without.requests_daily()
    age = _time(percentile(without.edit_ages_s("prospects"), 0.95))
    return [
        Row(
            "120,000 people, 2,000 edits a day: requests",
            f"{daily:,.0f}, {daily / hourly:.0%} of a full scan each hour",
            f"≤ 25% of {hourly:,}",
            daily <= hourly / 4,
        ),
        Row(
            "… without webhooks",
            f"{other:,.0f}, and 95 of 100 edits are seen within {age}",
            f"with: {EVENT_AGE_S} s",
        ),
    ]


def edited_account(*, has_events: bool) -> Account:
    account = Account(120_000, has_events, edited=2_000, pushed=0, sizes={"prospects": 1.0})
    account.run(24 * 10)
    return account


def pulled(people: int, *, has_events: bool = False, full_share: float = 0.1) -> Account:
    account = Account(people, has_events, pull_settings=PullSettings(full_share=full_share))
    account.run(24 * DAYS[people])
    return account


def figures(account: Account) -> tuple[str, ...]:
    """`COLUMNS` of an account: the first load while pushes run, later pulls, and how old changes
    are when they are seen (95th percentile)."""
    daily = account.requests_daily()
    ages_s = (
        account.addition_ages_s("prospects"),
        account.edit_ages_s("prospects"),
        account.deletion_ages_s("prospects"),
    )
    return (
        f"{account.people:,}",
        _time(account.first_load_s),
        f"{round(daily, -2):,.0f}",
        f"{daily / DAILY_BUDGET:.0%}",
        *(_time(percentile(each, 0.95)) for each in ages_s),
    )


def _row(people: int, *, has_events: bool) -> Row:
    looked_up = people * EDITED_DAILY
    what = f"{people:,} people" + (", webhooks" if has_events else "")
    if has_events and looked_up > DAILY_BUDGET:
        return Row(what, f"{looked_up:,.0f} look-ups a day", f"budget: {DAILY_BUDGET:,}")
    _, load, daily, share, new, edited, deleted = figures(pulled(people, has_events=has_events))
    if has_events:
        new = edited = "when its event comes"
    return Row(
        what,
        f"load {load}; {daily} requests a day ({share}); seen: new {new}, edited {edited}, "
        f"deleted {deleted}",
        "–",
    )


def _time(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 2 * 86_400 else f"{seconds / 86_400:.0f} days"
