"""A proxy in front of the sandbox, for servers with quirks of their own."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class Between:
    """A proxy before the sandbox. answers: what it says itself, (status, body) by list; a list
    with an id behind it too, as `meetings/`. refused: queries with this text in them are answered
    400. change: what it makes of the sandbox's own answers to
    a path below the base (status, parsed body), changed in place or as a status in its stead.
    asked: all paths. listening: the socket to serve; without one, any free port is."""

    def __init__(self, upstream: str, listening: socket.socket | None = None) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.refused: str | None = None
        self.change: Callable[[str, Any], int | None] = _unchanged
        self.asked: list[str] = []
        parts = urlsplit(upstream)
        between = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                name = urlsplit(self.path).path.removeprefix(parts.path).lstrip("/")
                between.asked.append(name)
                own = between.answers.get(name.partition("/")[0] + "/" * ("/" in name))
                if between.refused is not None and between.refused in self.path:
                    own = (400, b'{"error": {"message": "unknown parameter"}}')
                status, body = own or self._changed(name, *self._upstream())
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

            @staticmethod
            def _changed(name: str, status: int, body: bytes) -> tuple[int, bytes]:
                parsed = json.loads(body)
                changed = between.change(name, parsed)
                return changed or status, json.dumps(parsed).encode()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        if listening is None:
            self.server.server_bind()
            self.server.server_activate()
        else:
            self.server.socket.close()
            self.server.socket = listening
            self.server.server_port = listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.server.server_port}{parts.path}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def is_plain(self) -> bool:
        """Whether it only passes on what it gets."""
        return not self.answers and self.refused is None and self.change is _unchanged


def _unchanged(_path: str, _body: Any) -> None:
    pass
