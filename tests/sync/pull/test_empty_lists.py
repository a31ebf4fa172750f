"""A list that is suddenly empty: what the answer says decides whether rows are flagged deleted."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.sync.pull.conftest import Puller


class Between:
    """A proxy before the sandbox. answers: what it says itself, (status, body) by list; a list
    with an id behind it too, as `meetings/`."""

    def __init__(self, upstream: str) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        parts = urlsplit(upstream)
        between = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                name = urlsplit(self.path).path.removeprefix(parts.path).lstrip("/")
                own = between.answers.get(name.partition("/")[0] + "/" * ("/" in name))
                status, body = own or self._upstream()
                self.send_response(status)
                if status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _upstream(self) -> tuple[int, bytes]:
                connection = http.client.HTTPConnection(str(parts.hostname), parts.port)
                headers = {"Authorization": self.headers["Authorization"]}
                connection.request("GET", self.path, headers=headers)
                answer = connection.getresponse()
                found = (answer.status, answer.read())
                connection.close()
                return found

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}{parts.path}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def between(puller: Puller) -> Iterator[Between]:
    proxy = Between(puller.sandbox.url)
    puller.change(base_url=proxy.url)
    yield proxy
    proxy.server.shutdown()
    proxy.server.server_close()


def _body(**fields: Any) -> bytes:
    return json.dumps({"success": True, **fields}).encode()


@pytest.mark.parametrize("said", [_body(), _body(items=None, pagination={"nextPageToken": None})])
def test_an_answer_without_a_list_deletes_nothing(puller: Puller, between: Between, said: bytes):
    """Even if the rows can't be looked at: the scan isn't complete, and that is told."""
    puller.pull_ok("meetings", "tasks")
    between.answers = {"meetings": (200, said), "meetings/": (404, _body(error="Not found"))}
    report = puller.pull_ok("meetings", "tasks")
    assert report.exit_code == 3
    assert "proves nothing" in report.summary["resources"]["meetings"]["why_incomplete"]
    assert report.summary["resources"]["meetings"]["complete"] is False
    assert report.summary["resources"]["tasks"]["complete"] is True
    assert puller.counts("rows_deleted") == {"meetings": 0, "tasks": 0}
    assert report.live_rows["meetings"] == 70
    between.answers = {}
    assert puller.pull_ok("meetings").summary["resources"]["meetings"]["complete"]


@pytest.mark.parametrize(
    "said",
    [(200, _body(items=[])), (204, b"")],  # the other shapes: tests/unit/api/test_envelopes.py
)
def test_an_empty_list_is_believed_when_its_rows_are_gone_too(
    puller: Puller, between: Between, said: tuple[int, bytes]
):
    """The answer says that it is empty, and a sample of the rows is asked for by id."""
    puller.pull_ok("meetings")
    between.answers = {"meetings": said, "meetings/": (404, _body(error="Not found"))}
    assert puller.pull_ok("meetings").summary["resources"]["meetings"]["rows_deleted"] == 70


def test_rows_that_an_empty_list_hides_are_looked_at_in_turn(puller: Puller, between: Between):
    """Fifty are there, as far as a sample of 70 goes; with `--full` those are looked at again."""
    puller.pull_ok("meetings")
    between.answers = {"meetings": (200, _body(items=[]))}
    assert puller.pull_ok("meetings").summary["resources"]["meetings"]["rows_deleted"] == 0
    between.answers["meetings/"] = (404, _body(error="Not found"))
    for full, deleted in ((False, 20), (False, 0), (True, 50)):
        report = puller.pull_ok("meetings", full=full)
        assert report.summary["resources"]["meetings"]["rows_deleted"] == deleted


def test_an_uncounted_empty_list_deletes_nothing_where_no_row_can_be_looked_at(
    puller: Puller, between: Between
):
    """No count, and no call for one record: nothing but one empty answer would speak for it."""
    puller.pull_ok("meetings")
    between.answers = {"meetings": (200, _body(items=[])), "meetings/": (405, _body(error="No"))}
    assert puller.pull_ok("meetings").summary["resources"]["meetings"]["rows_deleted"] == 0
    between.answers["meetings"] = (200, _body(items=[], pagination={"totalCount": 0}))
    assert puller.pull_ok("meetings").summary["resources"]["meetings"]["rows_deleted"] == 70


def test_a_resource_that_always_was_empty_is_no_failure(puller: Puller, between: Between):
    """An account without meetings, whose server leaves the list out."""
    between.answers = {"meetings": (200, _body())}
    assert puller.pull_ok("meetings").published
    puller.pull_ok("meetings")
