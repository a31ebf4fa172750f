"""The report in a real browser: no console errors, and nothing wider than a phone."""

from __future__ import annotations

import http.server
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pipelines.report.render import render
from tests.unit.operations.test_report import facts, pull

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
PHONE_PX = 390
FRAME = """<iframe src="report.html" style="width:{width}px;height:4000px;border:0"
  onload="document.title='width ' + this.contentDocument.documentElement.scrollWidth"></iframe>"""
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom",
)  # fmt: skip


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address it is served at: frames of files can't look into one another."""
    handler = partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield tmp_path, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("runs", [0, 1, 500])
def test_the_page_is_quiet_and_fits_a_phone(served: tuple[Path, str], runs: int):
    """Nothing on the console; the page scrolls down, never sideways."""
    folder, address = served
    (folder / "report.html").write_text(render(facts([pull(n, 100 + n) for n in range(runs)])))
    (folder / "frame.html").write_text(FRAME.format(width=PHONE_PX))
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"{address}/frame.html"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r"<title>width (\d+)</title>", done.stdout)
    assert found is not None, done.stdout[:500]
    assert int(found[1]) <= PHONE_PX
