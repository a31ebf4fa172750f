"""The page of a plan in a real Chromium: searched, filtered and turned as people do; hostile names
stay text; a large plan says what it leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from connector.errors import printable
from pipelines.push.plan_view import for_people
from pipelines.report.report_page import render_plan
from tests.docs.browser import CHROMIUM, PHONE_PX, Browser

EVIL = (
    "</script></title><script>document.title='taken'</script><img src=/x onerror=alert(1)>\"'&lt;"
)
# what a reader does on the page; each ends with what they then see
ACTIONS = """
    search(text) { const box = page.getElementById('search'); box.value = text;
      box.dispatchEvent(new Event('input')); return this.seen(); },
    press(text) { const all = [...page.querySelectorAll('button')];
      all.find(e => e.innerText.startsWith(text)).click(); return this.seen(); },
    seen() { return [...page.querySelectorAll('#list b')].map(e => e.innerText); },
"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def person(number: int, **more: Any) -> dict[str, Any]:
    change = {
        "row": number, "outcome": "update", "prospect_id": f"p{number}", "name": f"Person {number}",
        "contact": f"n{number}@example.com",
        "changes": [{"field": "title", "old": "Agent", "new": "Broker"}],
    }  # fmt: skip
    return for_people(change | more)


def rendered(rows: Sequence[Mapping[str, Any]], *, rows_in_all: int = 0, **more: Any) -> str:
    summary = {
        "source": "people.csv", "would_create": 1, "would_update": 2, "unchanged": 3, "rejected": 1,
        "kept": 1, "failed": 0, "would_request": 4, "eta_s": 2.0, "look_ups": 2, "copy_age_s": 7200,
        "fields": {"title": 2}, "labels_removed": [{"label": "VIP", "prospects": 1}],
    }  # fmt: skip
    return render_plan(
        summary | more,
        rows,
        undo=["1 prospect created"],
        rows_in_all=rows_in_all or len(rows),
        account=None,
        now_s=1_750_000_000,
    )


def test_rows_are_searched_and_filtered(browser: Browser):
    """By any word of them, in any case; by outcome, kept being one; both together."""
    kept = [{"field": "city", "input": "Oslo", "hiringcenter": "Rome", "why": "because"}]
    rows = [
        person(2),
        person(3, outcome="create", name='Zoë "Z"'),
        person(4, kept=kept),
        for_people({"row": 5, "outcome": "rejected", "reason": "no email", "name": "Eve"}),
    ]
    asks = """
        all: acts.seen(), zoe: acts.search('zOË \"z'), two: acts.search('broker n4@'),
        none: acts.search('nobody'), again: acts.search(''), kept: acts.press('kept 1'),
        rejected: acts.press('rejected 1'), both: acts.search('zoë'), text: page.body.innerText,
    """
    seen = browser.look(rendered(rows), also=f"acts: window.acts = {{{ACTIONS}}}, {asks}")
    assert seen["all"] == seen["again"] == ["Person 2", 'Zoë "Z"', "Person 4", "Eve"]
    assert (seen["zoe"], seen["two"], seen["none"]) == (['Zoë "Z"'], ["Person 4"], [])
    assert (seen["kept"], seen["rejected"], seen["both"]) == (["Person 4"], ["Eve"], [])
    for text in ("1 prospect created", "VIP", "2 h", "title 2", "Nothing has been sent"):
        assert text in seen["text"]


def test_ten_thousand_rows_are_turned_page_by_page(browser: Browser):
    """Fifty at a time, so that a phone draws them at once; the last page ends with the last row. A
    plan that is larger says what isn't there."""
    rows = [person(number) for number in range(2, 10_002)]
    asks = """
        elements: all.length, first: acts.seen(),
        next: acts.press('Next'), back: acts.press('Back'),
        last: acts.search('n10001@'), where: page.getElementById('where').innerText,
        text: page.body.innerText,
    """
    page = rendered(rows, rows_in_all=12_345)
    seen = browser.look(page, also=f"acts: window.acts = {{{ACTIONS}}}, {asks}")
    assert seen["elements"] < 2_000
    assert seen["first"] == seen["back"] == [f"Person {number}" for number in range(2, 52)]
    assert seen["next"] == [f"Person {number}" for number in range(52, 102)]
    assert (seen["last"], seen["where"]) == (["Person 10001"], "1–1 of 1")
    assert "The first 10,000 rows; 2,345 more rows aren't on this page" in seen["text"]


def test_nothing_in_a_row_becomes_markup(browser: Browser):
    """Names, values, fields and reasons: shown as they are written. Controls that turn text around
    are left out."""
    each = {"field": EVIL, "old": EVIL, "new": EVIL, "why": EVIL}
    rows = [
        person(2, name=EVIL, contact=EVIL, prospect_id=EVIL, changes=[each], reason=EVIL, note=EVIL,
               kept=[{**each, "input": EVIL, "hiringcenter": EVIL}], labels_removed=[EVIL],
               activities=[{"kind": "notes", "body": EVIL}]),
        person(3, name="evil\u202egnp.exe\u2066"),
    ]  # fmt: skip
    page = rendered(rows, source=EVIL, labels_removed=[{"label": EVIL, "prospects": 1}])
    seen = browser.look(page, also=f"acts: window.acts = {{{ACTIONS}}}, names: acts.seen(),")
    assert (seen["scripts"], seen["handlers"]) == (2, 0)
    assert seen["title"] == "HiringCenter import plan"
    assert seen["names"] == [printable(EVIL), "evilgnp.exe"]
    assert "/x" not in browser.asked


def test_it_fits_a_phone_and_fetches_nothing(browser: Browser):
    """Whatever the length of a word."""
    rows = [person(2, name="N" * 300, changes=[{"field": "f" * 90, "old": "o" * 500, "new": None}])]
    seen = browser.look(rendered(rows))
    assert seen["width"] <= PHONE_PX
    assert set(browser.asked) <= {"/frame.html", "/report.html", "/favicon.ico"}


def test_only_its_own_script_may_run():
    """By its hash: a script that got into the page all the same would not."""
    page = rendered([person(2)])
    policy = page.partition('content="default-src')[2].partition('"')[0]
    assert "script-src 'sha256-" in policy
    assert "script-src 'unsafe" not in policy
