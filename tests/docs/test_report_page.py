"""The report in a real Chromium: quiet, nothing fetched, no wider than a phone; and nothing that a
run, a reject or an account is called becomes a part of the page."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from connector.runs import Freshness, RunRecord
from pipelines.report.report_page import ReportFacts, ShownPush, render
from tests.docs.browser import CHROMIUM, PHONE_PX, Browser
from tests.unit.operations.test_report import NOW_S, facts, pull

EVIL = "</title></style><script>document.title='taken'</script><img src=x onerror=alert(1)>\"'"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def evil() -> ReportFacts:
    """Facts whose every text tries to be markup."""
    failed = RunRecord(EVIL, "push", EVIL, "failed", int(NOW_S) * 1000, None, {"rows": 1}, EVIL)
    return replace(
        facts([failed, pull(1, 5)]),
        destination=EVIL,
        account=EVIL,
        hold=EVIL,
        pushes=[ShownPush(failed, [(EVIL, 1)])],
        freshness={EVIL: Freshness(EVIL, "r1", EVIL, EVIL, 1, int(NOW_S * 1000), None)},
    )


@pytest.mark.parametrize("runs", [0, 1, 500])
def test_the_page_is_quiet_and_fits_a_phone(browser: Browser, runs: int):
    """Nothing on the console; it scrolls down, never sideways; nothing but itself is asked for."""
    page = render(facts([pull(n, 100 + n) for n in range(runs)]))
    seen = browser.look(page)
    assert seen["width"] <= PHONE_PX
    assert seen["text"] > 300
    assert set(browser.asked) <= {"/frame.html", "/report.html", "/favicon.ico"}
    assert browser.asked.count("/report.html") == 1


def test_light_and_dark_follow_the_reader(browser: Browser):
    """One file: dark ink on a light ground, or the other way round."""
    page = render(facts([pull(1, 5)]))
    light, dark = (browser.look(page, scheme=scheme) for scheme in ("light", "dark"))

    def brightness(colour: str) -> int:
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    assert brightness(light["ground"]) > 3 * 200 > 3 * 80 > brightness(light["ink"])
    assert brightness(dark["ground"]) < 3 * 80 < 3 * 200 < brightness(dark["ink"])


def test_nothing_that_something_is_called_becomes_markup(browser: Browser):
    """Errors, reasons, accounts, destinations: shown as they are written, never run."""
    seen = browser.look(render(evil()))
    assert (seen["scripts"], seen["handlers"]) == (0, 0)
    assert seen["title"] == "HiringCenter connector report"
    assert seen["width"] <= PHONE_PX
    assert "/x" not in browser.asked
