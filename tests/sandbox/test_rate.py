"""Rate windows in virtual time, and the headers over HTTP."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.sandbox import SandboxOptions
from connector.sandbox.rate_limits import RateLimits, limit_headers, retry_after_s
from tests.sandbox.conftest import Serve

KINDS = ("sliding", "fixed", "weighted", "bucket")
gaps = st.lists(st.integers(0, 4000).map(lambda ms: ms / 1024), min_size=1, max_size=120)


def _limits(**options: Any) -> RateLimits:
    return RateLimits(SandboxOptions(**options))


def _let_in(limits: RateLimits, arrivals: list[float]) -> list[float]:
    verdicts = [(at_s, limits.arrive(at_s)) for at_s in arrivals]
    return [at_s for at_s, verdict in verdicts if verdict is not None and verdict.wait_s == 0]


def _times(steps: list[float]) -> list[float]:
    times = [1000.0]
    for step in steps:
        times.append(times[-1] + step)
    return times


@given(gaps)
def test_a_sliding_window_is_exact(steps: list[float]):
    """Let in iff fewer than the limit were let in during the last length, both windows at once."""
    windows = ((3, 4.0), (7, 20.0))
    times = _times(steps)
    expected: list[float] = []
    for at_s in times:
        if all(sum(each + length > at_s for each in expected) < limit for limit, length in windows):
            expected.append(at_s)
    assert _let_in(_limits(windows=windows), times) == expected


@given(gaps, st.integers(0, 40).map(lambda ticks: ticks / 8))
def test_a_fixed_window_counts_between_its_borders(steps: list[float], alignment_s: float):
    """At most the limit between two borders, wherever they lie; refused only when that is full."""
    times = _times(steps)
    options = {"windows": ((3, 4.0),), "window_kind": "fixed", "window_alignment_s": alignment_s}
    let_in = _let_in(_limits(**options), times)
    for index in {(at_s - alignment_s) // 4.0 for at_s in times}:
        arrived = [at_s for at_s in times if (at_s - alignment_s) // 4.0 == index]
        assert [at_s for at_s in let_in if (at_s - alignment_s) // 4.0 == index] == arrived[:3]


@given(gaps)
def test_a_weighted_window_is_never_more_generous_than_a_fixed_one(steps: list[float]):
    """What it lets in, a fixed window would have let in as well, in the same order."""
    times = _times(steps)
    windows = {"windows": ((3, 4.0),)}
    let_in = _let_in(_limits(**windows, window_kind="weighted"), times)
    assert _let_in(_limits(**windows, window_kind="fixed"), let_in) == let_in


def test_a_weighted_window_refuses_what_a_sliding_one_lets_in():
    """Four at the start of a window still weigh half in the middle of the next: the known trap."""
    windows = {"windows": ((4, 10.0),)}
    arrivals = [1000.0] * 4 + [1015.0] * 4
    assert len(_let_in(_limits(**windows, window_kind="weighted"), arrivals)) == 6
    assert len(_let_in(_limits(**windows, window_kind="sliding"), arrivals)) == 8


@given(gaps)
def test_a_bucket_lets_in_what_flowed_back(steps: list[float]):
    """Never more than the limit and what refilled since, over any stretch."""
    let_in = _let_in(_limits(windows=((3, 4.0),), window_kind="bucket"), _times(steps))
    for first, start_s in enumerate(let_in):
        for last in range(first, len(let_in)):
            assert last - first + 1 <= 3 + (let_in[last] - start_s) * 3 / 4 + 1e-6


@given(gaps, st.sampled_from(KINDS))
def test_a_refusal_names_the_exact_wait(steps: list[float], kind: Any):
    """A moment before that the next request is refused, a moment after it is let in."""
    limits = _limits(windows=((3, 4.0), (5, 9.0)), window_kind=kind)
    for at_s in _times(steps):
        verdict = limits.arrive(at_s)
        assert verdict is not None
        if verdict.wait_s > 0.001:
            early = limits.arrive(at_s + verdict.wait_s - 0.0005)
            late = limits.arrive(at_s + verdict.wait_s + 0.0005)
            assert early is not None
            assert late is not None
            assert early.wait_s > 0
            assert late.wait_s == 0
            return


def test_a_refused_request_counts_only_where_asked():
    """Some servers punish asking too early."""
    for count_refused, later in ((False, 0.0), (True, 5.0)):
        limits = _limits(windows=((1, 10.0),), count_refused=count_refused)
        limits.arrive(100.0)
        limits.arrive(105.0)
        verdict = limits.arrive(110.0)
        assert verdict is not None
        assert verdict.wait_s == pytest.approx(later)


def test_the_verdict_is_about_the_closest_window():
    """The minute while it has fewer left than the hour, then the hour."""
    limits = _limits(windows=((3, 60.0), (4, 3600.0)))
    first = limits.arrive(0.0)
    assert first is not None
    assert (first.limit, first.remaining, first.reset_s) == (3, 2, 60.0)
    limits.arrive(1.0)
    limits.arrive(2.0)
    refused = limits.arrive(3.0)
    assert refused is not None
    assert (refused.name, refused.wait_s) == ("Minute", 57.0)
    fourth = limits.arrive(70.0)
    assert fourth is not None
    assert (fourth.limit, fourth.remaining) == (4, 0)
    refused = limits.arrive(140.0)
    assert refused is not None
    assert (refused.name, refused.wait_s) == ("Hour", 3460.0)


@pytest.mark.parametrize(("style", "reset"), [("delta", "30"), ("epoch", "1030")])
def test_a_reset_is_delta_seconds_or_a_unix_time(style: Any, reset: str):
    """Delta seconds, or a Unix time."""
    options = SandboxOptions(windows=((2, 30.0),), reset_style=style)
    verdict = RateLimits(options).arrive(1000.0)
    assert verdict is not None
    headers = limit_headers(verdict, options, 1000.0)
    assert headers == {
        "RateLimit-Limit": "2",
        "RateLimit-Remaining": "1",
        "RateLimit-Reset": reset,
    }


@pytest.mark.parametrize("style", ["delta", "date", "absent"])
def test_retry_after_styles(style: Any):
    """Whole seconds rounded up, an HTTP date, or nothing."""
    options = SandboxOptions(windows=((1, 30.0),), retry_after=style)
    limits = RateLimits(options)
    limits.arrive(1000.0)
    verdict = limits.arrive(1000.5)
    assert verdict is not None
    assert retry_after_s(verdict) == 30
    said = limit_headers(verdict, options, 1000.5).get("Retry-After")
    expected = {"delta": "30", "date": "Thu, 01 Jan 1970 00:17:10 GMT", "absent": None}
    assert said == expected[style]


def test_over_the_limit_over_http(serve: Serve):
    """429 with the body, the three headers and `Retry-After` of the contract; nothing is read."""
    sandbox, client = serve(windows=((2, 60), (100, 3600)))
    first = client.get("/notes")
    assert first.headers["RateLimit-Limit"] == "2"
    assert first.headers["RateLimit-Remaining"] == "1"
    client.get("/auth")
    refused = client.post("/prospects", json={"firstName": "A", "lastName": "B"})
    assert refused.status_code == 429
    body = refused.json()
    assert body["error"] == "Too many requests"
    assert body["message"] == "Minute limit exceeded. Please try again later."
    assert refused.headers["Retry-After"] == str(body["retryAfter"])
    assert refused.headers["RateLimit-Remaining"] == "0"
    assert sandbox.applied == []
    sandbox.options.windows = None
    assert "RateLimit-Limit" not in client.get("/notes").headers


def test_another_client_can_empty_the_window(serve: Serve):
    """A test empties the window; what doesn't fit is not let in."""
    sandbox, client = serve(windows=((5, 60),))
    assert (sandbox.spend(9), sandbox.foreign_spent) == (5, 5)
    assert client.get("/notes").status_code == 429


def test_refusals_of_the_api_carry_the_headers_too(serve: Serve):
    """On every answer: 404 and 400 as well."""
    _, client = serve(windows=((9, 60),))
    for answer in (client.get("/notes/none"), client.post("/notes", json={})):
        assert int(answer.headers["RateLimit-Remaining"]) < 9


def test_a_request_counts_at_its_arrival(serve: Serve):
    """Not when it is answered: while a slow one is under way, its slot is taken."""
    sandbox, client = serve(windows=((1, 60),), uplink_s=(0.0, 0.01), latency_s=0.2)
    client.get("/notes")
    assert sandbox.requests[0].answered_s is not None
    assert sandbox.requests[0].answered_s - sandbox.requests[0].received_s >= 0.2
    assert client.get("/notes").status_code == 429


def test_the_servers_clock_may_be_wrong(serve: Serve):
    """`Date` and epoch resets follow it."""
    _, client = serve(clock_skew_s=7200.0, windows=((9, 60),), reset_style="epoch")
    answer = client.get("/notes")
    shown_s = parsedate_to_datetime(answer.headers["Date"]).timestamp()
    assert shown_s - time.time() > 7000
    assert int(answer.headers["RateLimit-Reset"]) - time.time() > 7000
