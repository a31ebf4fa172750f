"""A real Chromium, and what it shows of a page."""

from __future__ import annotations

import html
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
PHONE_PX = 390
# what a page shows, reported through the title of the frame around it
FRAME = """<meta charset="utf-8">
<iframe src="report.html" style="width:{width}px;height:4000px;border:0" onload="
  const page = this.contentDocument, all = [...page.querySelectorAll('*')];
  document.title = JSON.stringify({{
    width: page.documentElement.scrollWidth,
    ground: getComputedStyle(page.body).backgroundColor,
    ink: getComputedStyle(page.body).color,
    scripts: page.scripts.length,
    handlers: all.filter(e => [...e.attributes].some(a => a.name.startsWith('on'))).length,
    title: page.title,
    text: page.body.innerText.length,
    {also}
  }})"></iframe>"""
FLAGS = (
    "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom",
)  # fmt: skip
SCHEMES = {"dark": 0, "light": 1}  # Chromium's own numbers


@dataclass(frozen=True)
class Browser:
    """Opens what lies in `folder`. asked: every path that was requested of its server."""

    folder: Path
    address: str
    asked: list[str]

    def look(
        self, page: str, *, scheme: str = "light", width_px: int = PHONE_PX, also: str = ""
    ) -> dict[str, Any]:
        """What FRAME says of the page; fails on any line on the console. also: more entries of its
        object, in JavaScript, made one after the other."""
        (self.folder / "report.html").write_text(page)
        (self.folder / "frame.html").write_text(
            FRAME.format(width=width_px, also=html.escape(also))
        )
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
        seen: dict[str, Any] = json.loads(html.unescape(found[1]))
        return seen


@contextmanager
def open_browser(tmp_path: Path) -> Iterator[Browser]:
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
