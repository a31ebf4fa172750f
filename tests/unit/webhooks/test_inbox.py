"""The inbox: who waits, what is known of events, and when they stand for a scan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from connector.budget.database import Database
from connector.errors import InboxFull
from connector.settings import Settings, WebhookSettings
from connector.webhooks.inbox import (
    GAP_S,
    Arrival,
    EventFacts,
    Inbox,
    account_of,
    find_inbox,
    open_inbox,
)
from pipelines.pull.events import why_not_covered

T = 1_800_000_000_000
DAY = 86_400_000


@pytest.fixture(params=["sqlite", "postgresql"])
def inbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Inbox]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/ledger.db"
    else:
        url = request.getfixturevalue("postgres_url")
    opened = Inbox(Database(url, durable=True, suffix="-inbox"), waiting_max=4)
    yield opened
    opened.close()


def event(person: str | None, kind: str = "prospect.updated", account: str = "a") -> Arrival:
    return Arrival(account, person, kind)


def waiting(inbox: Inbox, account: str = "a", *, now_ms: int = T + DAY) -> list[str]:
    return [each.prospect_id for each in inbox.waiting(account, 100, now_ms=now_ms)]


def test_a_person_waits_once_however_many_events_name_them(inbox: Inbox):
    """In the order in which they were first named; accounts don't see each other's."""
    inbox.store([event("p2"), event("p1"), event("p2")], now_ms=T)
    inbox.store([event("p2"), event("p3", account="b")], now_ms=T + 5)
    assert waiting(inbox) == ["p1", "p2"]
    assert waiting(inbox, "b") == ["p3"]
    (_, second) = inbox.waiting("a", 9, now_ms=T + 9)
    assert (second.deliveries, second.first_ms, second.last_ms) == (3, T, T + 5)
    assert inbox.facts("a").deliveries == {"prospect.updated": 4}
    assert inbox.facts("a").last_event_ms == T + 5


def test_a_person_named_again_while_being_looked_up_stays(inbox: Inbox):
    """The look-up may have been answered before the second change."""
    inbox.store([event("p1"), event("p2")], now_ms=T)
    taken = inbox.waiting("a", 9, now_ms=T)
    inbox.store([event("p1")], now_ms=T)
    inbox.settle("a", taken, brought=1)
    assert waiting(inbox) == ["p1"]
    assert inbox.facts("a").brought == 1


def test_a_look_up_that_decides_nothing_is_tried_later_each_time_unless_another_event_comes(
    inbox: Inbox,
):
    """After half a minute, two, ten, and then every hour."""
    inbox.store([event("p1")], now_ms=T)
    now_ms = T
    for wait_s in (30, 120, 600, 3600, 3600):
        inbox.postpone("a", inbox.waiting("a", 9, now_ms=now_ms), now_ms=now_ms)
        assert waiting(inbox, now_ms=now_ms + wait_s * 1000 - 1) == []
        now_ms += wait_s * 1000
        assert waiting(inbox, now_ms=now_ms) == ["p1"]
    inbox.postpone("a", inbox.waiting("a", 9, now_ms=now_ms), now_ms=now_ms)
    inbox.store([event("p1")], now_ms=now_ms + 1)
    assert waiting(inbox, now_ms=now_ms + 1) == ["p1"]


def test_a_complete_scan_covers_people_named_well_before_it_began(inbox: Inbox):
    """The clocks of two machines may differ by a minute."""
    inbox.store([event("p1")], now_ms=T)
    inbox.store([event("p2")], now_ms=T + 60_001)
    scan = {"scanned_ms": T + 60_001}
    assert inbox.note_full_scan("a", **scan, is_complete=False, miss_rate=0.25) == 0
    assert waiting(inbox) == ["p1", "p2"]
    assert inbox.note_full_scan("a", **scan, is_complete=True) == 1
    assert waiting(inbox) == ["p2"]
    assert inbox.facts("a").miss_rate == 0.25


def test_a_full_inbox_takes_nothing_of_a_delivery(inbox: Inbox):
    """Four may wait. There is room again once they are looked up."""
    inbox.store([event(f"p{n}") for n in range(4)], now_ms=T)
    with pytest.raises(InboxFull):
        inbox.store([event("p4"), event("p5")], now_ms=T)
    assert len(waiting(inbox)) == 4
    assert inbox.facts("a").deliveries == {"prospect.updated": 4}
    inbox.settle("a", inbox.waiting("a", 2, now_ms=T))
    inbox.store([event("p4"), event("p5")], now_ms=T)
    assert waiting(inbox) == ["p2", "p3", "p4", "p5"]


def test_a_receiver_is_alive_without_a_gap_as_long_as_it_says_so_often(inbox: Inbox):
    """A restart within 45 seconds is none; after a longer silence its time begins again, also if
    the clock was set back."""
    gap_ms = int(GAP_S * 1000)
    for at_ms, since_ms in (
        (T, T), (T + gap_ms, T), (T + 3 * gap_ms, T + 3 * gap_ms), (T + gap_ms, T + gap_ms)
    ):  # fmt: skip
        inbox.beat(["a", "b"], now_ms=at_ms)
        facts = inbox.facts("a")
        assert (facts.alive_since_ms, facts.alive_ms) == (since_ms, at_ms)


def test_events_without_a_person_are_counted(inbox: Inbox):
    inbox.store([event(None), event("p1"), event(None)], now_ms=T)
    assert (inbox.facts("a").unidentified, inbox.facts("a").unidentified_ms) == (2, T)
    assert waiting(inbox) == ["p1"]


def test_a_receiver_for_another_destination_is_noticed(inbox: Inbox):
    """Of the same account: it would keep events where no pull looks."""
    inbox.beat(["east_1-a", "west-a"], now_ms=T)
    elsewhere = [inbox.facts(each).elsewhere for each in ("east_1-a", "east_1-b", "eastx1-b")]
    assert elsewhere == [False, True, False]


def test_notes_are_changed_one_by_one(inbox: Inbox):
    inbox.change_notes("a", polled=["p1"])
    inbox.change_notes("a", spent=3)
    assert inbox.notes("a") == {"polled": ["p1"], "spent": 3}
    assert inbox.notes("b") == {}


# --- whether events are relied on ----------------------------------------------------------------

GOOD = EventFacts(
    last_ms={"prospect.created": T - DAY, "prospect.updated": T - 1000},
    deliveries={"prospect.created": 1, "prospect.updated": 9},
    alive_since_ms=T - 3 * DAY,
    alive_ms=T - 5000,
    miss_rate=0.01,
)


def why(facts: EventFacts, *, full_ms: int | None = T - 2 * DAY) -> str | None:
    return why_not_covered(facts, trust_days=7, last_full_ms=full_ms, now_ms=T)


def test_events_cover_what_changed_since_the_last_full_scan():
    """Both types came lately, and a receiver was running since before that scan began."""
    assert why(GOOD) is None
    assert why(GOOD, full_ms=GOOD.alive_since_ms) is None


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"last_ms": {}}, "no event has come yet"),
        ({"last_ms": {"prospect.updated": T}}, "no prospect.created has come for 7 days"),
        ({"last_ms": {"prospect.created": T, "prospect.updated": T - 8 * DAY}}, "updated has come"),
        ({"alive_since_ms": T - DAY - 1}, "down after the last full scan began"),
        ({"alive_ms": T - 60_000}, "no receiver has been running for 60 s"),
        ({"alive_since_ms": None}, "no receiver has been running"),
        ({"alive_ms": None, "elsewhere": True}, "name another destination"),
        ({"unidentified_ms": T - DAY}, "no prospect was found"),
        ({"probe_missed_ms": T - DAY}, "whom no event had named"),
        ({"miss_rate": 0.011}, "missed 1.1% of the changes"),
        ({"waiting": 1, "oldest_ms": T - 3_700_000}, "more than an hour"),
    ],
)  # fmt: skip
def test_a_single_doubt_is_enough(change: dict[str, object], phrase: str):
    """And it is named. What happened before the last full scan is no longer a doubt."""
    found = why(replace(GOOD, **change))
    assert found is not None
    assert phrase in found


def test_an_event_before_a_gap_proves_nothing_about_what_follows_it():
    """A full scan began after the gap; the types still have to come again."""
    back = replace(GOOD, alive_since_ms=T - DAY // 2)
    assert "since the receiver was down" in (why(back, full_ms=T - DAY // 4) or "")
    both = {"prospect.created": T - DAY // 3, "prospect.updated": T}
    assert why(replace(back, last_ms=both), full_ms=T - DAY // 4) is None


def test_doubts_before_the_last_full_scan_are_over():
    old = replace(GOOD, unidentified_ms=T - 5 * DAY, probe_missed_ms=T - 5 * DAY)
    assert why(old) is None
    assert why(GOOD, full_ms=None) == "there was no full scan yet"


# --- files ---------------------------------------------------------------------------------------


def settings(tmp_path: Path, **more: object) -> Settings:
    return Settings(state_dir=tmp_path / "state", webhooks=WebhookSettings(), **more)


def test_there_is_no_inbox_until_something_is_received(tmp_path: Path):
    """A pull without webhooks makes no file."""
    own = settings(tmp_path)
    ledger = Database(own.resolved_ledger_url)
    assert find_inbox(own, ledger) is None
    open_inbox(own).close()
    found = find_inbox(own, ledger)
    assert found is not None
    found.close()
    ledger.close()


def test_a_damaged_inbox_is_set_aside(tmp_path: Path):
    """It is kept under another name, and a new one begun: no receiver was alive in that."""
    own = settings(tmp_path)
    with_event = open_inbox(own)
    with_event.store([event("p1")], now_ms=T)
    with_event.close()
    (file,) = (tmp_path / "state").glob("*-inbox.db")
    file.write_bytes(b"not a database" * 1000)
    new = open_inbox(own)
    assert new.facts("a") == EventFacts()
    new.close()
    assert len([*(tmp_path / "state").glob("*.damaged-*")]) == 1


def test_accounts_and_destinations_have_separate_inboxes(tmp_path: Path):
    """A person who has changed is looked up for each copy."""
    one = settings(tmp_path)
    other = settings(tmp_path, duckdb_path=tmp_path / "other.duckdb")
    named = one.model_copy(update={"account": "east"})
    assert len({account_of(each) for each in (one, other, named)}) == 3
    assert account_of(one) == account_of(settings(tmp_path))
