"""One decision: which answers are tried again, after how long, and when to stop."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.api.envelopes import to_item, to_page
from connector.api.retry import (
    BUSY_TRIES,
    DOUBTFUL_TRIES,
    LEAST_TRY_S,
    UNSHOWN_TRIES,
    Action,
    Decision,
    Effort,
    Outcome,
    decide,
    outcome_of_status,
    retry_after_s,
    understand,
)
from connector.api.transport import Exchange
from connector.budget.policy.feedback import http_date_s

NOW_S = 1_760_000_000.0
TRANSIENT = [Outcome.UNSHOWN, Outcome.LOST, Outcome.FAULTY, Outcome.RUNNING, Outcome.DOUBTFUL]


def _decide(outcome: Outcome, effort: Effort, *, retry_after: str | None = None) -> Decision:
    headers = {} if retry_after is None else {"retry-after": retry_after}
    return decide(outcome, headers, effort, total_s=300, now_s=NOW_S, jitter=1.0)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.USABLE),
        (201, Outcome.USABLE),
        (204, Outcome.USABLE),
        (301, Outcome.FINAL),
        (302, Outcome.FINAL),
        (304, Outcome.FINAL),
        (307, Outcome.FINAL),
        (400, Outcome.FINAL),
        (401, Outcome.FINAL),
        (403, Outcome.FINAL),
        (404, Outcome.FINAL),
        (408, Outcome.FAULTY),
        (409, Outcome.FINAL),
        (410, Outcome.FINAL),
        (422, Outcome.FINAL),
        (425, Outcome.FAULTY),
        (429, Outcome.BUSY),
        (500, Outcome.FAULTY),
        (502, Outcome.FAULTY),
        (503, Outcome.FAULTY),
        (504, Outcome.FAULTY),
        (599, Outcome.FAULTY),
    ],
)
def test_a_status_says_whether_the_same_request_may_do_better(status: int, outcome: Outcome):
    """4xx is terminal but for 408, 425 and 429; redirects are never followed."""
    assert outcome_of_status(status, keyed=False, message="still in progress") is outcome


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ("A request with this idempotency key is still in progress.", Outcome.RUNNING),
        ("Another request with this key is being processed", Outcome.RUNNING),
        ("Conflict: request_in_progress", Outcome.RUNNING),
        ("Concurrent request", Outcome.RUNNING),
        ("This idempotency key was used with another payload.", Outcome.FINAL),
        ("Key already used with a different request body", Outcome.FINAL),
        ("A prospect with this email or phone already exists.", Outcome.FINAL),
        ("Conflict", Outcome.DOUBTFUL),
        ("no reason was given", Outcome.DOUBTFUL),
    ],
)
def test_409_is_waited_for_only_while_the_first_request_runs(said: str, outcome: Outcome):
    """One status for two things: its text distinguishes them; where it doesn't, a few tries do."""
    assert outcome_of_status(409, keyed=True, message=said) is outcome


@pytest.mark.parametrize("outcome", TRANSIENT)
def test_waits_double_until_their_cap(outcome: Outcome):
    """From a quarter of a second; a doubtful answer is asked for again sooner."""
    waits = [_decide(outcome, Effort(tries=tries)).wait_s for tries in range(1, 12)]
    assert waits[:4] == [0.25, 0.5, 1.0, 2.0]
    assert waits[-1] == (2.0 if outcome in (Outcome.DOUBTFUL, Outcome.UNSHOWN) else 30.0)


def test_the_servers_word_wins_over_the_backoff():
    """As seconds or as a date."""
    assert _decide(Outcome.FAULTY, Effort(tries=1), retry_after="7").wait_s == 7
    date = "Thu, 09 Oct 2025 08:53:30 GMT"
    assert _decide(Outcome.FAULTY, Effort(tries=1), retry_after=date).wait_s == 10


def test_a_server_that_asks_for_more_than_is_left_ends_the_call_at_once():
    """Waiting would be in vain: the total is a promise, and a try needs a second of it."""
    decision = _decide(Outcome.FAULTY, Effort(tries=1, spent_s=10), retry_after="289")
    assert decision.action is Action.GIVE_UP
    decision = _decide(Outcome.FAULTY, Effort(tries=1, spent_s=10), retry_after="288")
    assert decision == Decision(Action.RETRY, 288)


@given(
    st.sampled_from(TRANSIENT),
    st.lists(st.floats(0, 60), min_size=1, max_size=400),
    st.floats(0, 1),
    st.floats(1, 1000),
)
def test_tries_and_waits_never_outlast_the_total(
    outcome: Outcome, tries_s: list[float], jitter: float, total_s: float
):
    """The total bounds everything but the last try: no wait ends without time for another."""
    effort = Effort()
    for took_s in tries_s:
        effort = effort.after(outcome, sent=True, took_s=took_s)
        decision = decide(outcome, {}, effort, total_s=total_s, now_s=NOW_S, jitter=jitter)
        if decision.action is not Action.RETRY:
            most = {Outcome.DOUBTFUL: DOUBTFUL_TRIES, Outcome.UNSHOWN: UNSHOWN_TRIES}
            assert effort.tries == most.get(outcome) or effort.spent_s + 30 + LEAST_TRY_S >= total_s
            return
        assert decision.wait_s > 0
        effort = effort.waited(decision.wait_s)
        assert effort.spent_s < total_s - min(LEAST_TRY_S, total_s / 4)


def test_429_asks_for_a_permit_again_at_once_and_spends_nothing():
    """The wait is the budget's hold, seen by every process; a long one isn't a failure."""
    effort = Effort(tries=5, busy=5, spent_s=0.5)
    assert _decide(Outcome.BUSY, effort, retry_after="3600") == Decision(Action.RETRY, 0)


def test_429_for_ever_ends():
    """So many holds in a row say that the key isn't served any more."""
    assert _decide(Outcome.BUSY, Effort(tries=60, busy=BUSY_TRIES)).action is Action.GIVE_UP


def test_429s_do_not_lengthen_the_backoff_of_other_failures():
    """They say nothing about how ill the server is."""
    assert _decide(Outcome.FAULTY, Effort(tries=9, busy=8)).wait_s == 0.25


def test_a_readable_answer_of_an_unknown_shape_ends_after_a_few_tries():
    """A proxy may have made one up, but not eight: the API has changed, and the user learns it."""
    assert _decide(Outcome.DOUBTFUL, Effort(tries=7, doubtful=7)).action is Action.RETRY
    assert _decide(Outcome.DOUBTFUL, Effort(tries=8, doubtful=8)).action is Action.FAIL


def test_an_answer_without_a_list_is_accepted_the_third_time():
    """What a proxy lost once comes with the next try."""
    assert _decide(Outcome.EMPTY, Effort(tries=2, empty=2)).action is Action.RETRY
    assert _decide(Outcome.EMPTY, Effort(tries=3, empty=3)).action is Action.RETURN


def test_usable_and_final_answers_are_never_tried_again():
    """Whatever their headers say."""
    assert _decide(Outcome.USABLE, Effort(tries=1), retry_after="5").action is Action.RETURN
    assert _decide(Outcome.FINAL, Effort(tries=1), retry_after="5").action is Action.FAIL


@pytest.mark.parametrize(
    "text",
    [
        "", "0", "soon", "-5", "Thu, 09 Oct 2025 08:53:19 GMT", "1e9",
        "120000000", "Sat, 09 Oct 2199 08:53:19 GMT",
    ],
)  # fmt: skip
def test_an_unreadable_retry_after_isnt_a_wait(text: str):
    """Absent, zero, past, unreadable or a misread unit: the backoff decides."""
    assert retry_after_s({"retry-after": text}, NOW_S) is None


@given(st.text())
def test_any_date_header_is_a_time_or_nothing(text: str):
    """A proxy's nonsense isn't a reason to fail."""
    found = http_date_s(text)
    assert found is None or isinstance(found, float)


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, Outcome.LOST), (202, Outcome.UNSHOWN), (204, Outcome.UNSHOWN)]
)
def test_a_write_that_is_accepted_without_content_is_settled_by_a_look(
    status: int, outcome: Outcome
):
    """An empty 200, and any list without content that isn't a 204, may be cut short."""
    exchange = Exchange(status=status)
    write = understand(
        exchange, lambda body: to_item("prospect", body), keyed=True, absent_at_404=False
    )
    assert write.outcome is outcome
    listed = understand(
        exchange, lambda body: to_page("prospects", body), keyed=False, absent_at_404=False
    )
    assert listed.outcome is (Outcome.USABLE if status == 204 else Outcome.LOST)
