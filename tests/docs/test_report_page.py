"""The report in a real Chromium: quiet, nothing fetched, no wider than a phone; and nothing that a
run, a reject or an account is called becomes a part of the page."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from connector.history import Freshness, RunRecord
from pipelines.report.report_facts import ReportFacts, ShownPush
from pipelines.report.report_page import render
from tests.unit.operations.test_report import NOW_S, facts, pull

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
PHONE_PX = 390
# what a page looks like to who opens it, told through the title of the frame around it
FRAME = """<iframe src="report.html" style="width:{width}px;height:4000px;border:0" onload="
  const page = this.contentDocument, all = [...page.querySelectorAll('*')];
  document.title = JSON.stringify({{
    width: page.documentElement.scrollWidth,
    ground: getComputedStyle(page.body).backgroundColor,
    ink: getComputedStyle(page.body).color,
    scripts: page.scripts.length,
    handlers: all.filter(e => [...e.attributes].some(a => a.name.startsWith('on'))).length,
    title: page.title,
    text: page.body.innerText.length,
  }})"></iframe>"""
FLAGS = (
    "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom",
)  # fmt: skip
SCHEMES = {"dark": 0, "light": 1}  # Chromium's own numbers
EVIL = "</title></style><script>document.title='taken'</script><img src=x onerror=alert(1)>\"'"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@dataclass(frozen=True)
class Browser:
    """Opens what lies in `folder`. asked: every path that was requested of its server."""

    folder: Path
    address: str
    asked: list[str]

    def look(self, page: str, *, scheme: str = "light", width_px: int = PHONE_PX) -> dict[str, Any]:
        """What FRAME tells of the page; fails on any line on the console."""
        (self.folder / "report.html").write_text(page)
        (self.folder / "frame.html").write_text(FRAME.format(width=width_px))
        assert CHROMIUM is not None
        colours = f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"
        profile = f"--user-data-dir={self.folder / 'profile'}"
        done = subprocess.run(
            [CHROMIUM, *FLAGS, colours, profile, f"{self.address}/frame.html"],
            capture_output=True, text=True, timeout=500, check=True,
        )  # fmt: skip
        assert "CONSOLE" not in done.stderr, done.stderr
        found = re.search(r"<title>(\{.*?\})</title>", done.stdout)
        assert found is not None, done.stdout[:500]
        seen: dict[str, Any] = json.loads(found[1])
        return seen


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """Pages are served, not opened as files: a frame may look into what has its own origin."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, directory=str(tmp_path), **kwargs)

        def log_request(self, *_: object) -> None:
            asked.append(self.path)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Browser(tmp_path, f"http://127.0.0.1:{server.server_port}", asked)
        server.shutdown()
        thread.join()


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
    """Errors, reasons, accounts, destinations: shown as they are written, run by nobody."""
    seen = browser.look(render(evil()))
    assert (seen["scripts"], seen["handlers"]) == (0, 0)
    assert seen["title"] == "HiringCenter connector report"
    assert seen["width"] <= PHONE_PX
    assert "/x" not in browser.asked
