"""Which fault a request meets, and what servers and proxies answer when they are broken."""

from __future__ import annotations

import random
from collections.abc import Mapping

import orjson
from starlette.responses import Response

from connector.sandbox.clock import http_date
from connector.sandbox.fault_options import FAULT_NAMES, Faults
from connector.sandbox.log import LoggedRequest
from connector.sandbox.options import SandboxOptions

HTML_PAGE = (
    b"<!DOCTYPE html><html><head><title>Bad gateway</title></head>"
    b"<body><h1>502</h1><p>The upstream server is unavailable.</p></body></html>"
)
_WRONG_BODIES = (b'{"success": true, "items": [', b"null", b'"ok"', b"", b'{"success": true}')


class FaultPicker:
    """One draw per request, from the seed of the options' `Faults`; a script's word comes first."""

    def __init__(self, options: SandboxOptions) -> None:
        self._options = options
        self._drawn_from: Faults | None = None
        self._random = random.Random(0)

    def pick(self, request: LoggedRequest) -> str | None:
        """A fault's name, or None.

        Raises:
            ValueError: the script names a fault that doesn't exist.
        """
        scripted, name = self._scripted(request)
        if not scripted:
            name = self._drawn(request)
        if name is not None and name not in FAULT_NAMES:
            raise ValueError(f"unknown fault {name!r}; known: {', '.join(FAULT_NAMES)}")
        return name

    def _scripted(self, request: LoggedRequest) -> tuple[bool, str | None]:
        script = self._options.script
        if script is None:
            return False, None
        if callable(script):
            name = script(request)
            return name is not None, name
        if isinstance(script, Mapping):
            return request.number in script, script.get(request.number)
        decided = request.number <= len(script)
        return decided, script[request.number - 1] if decided else None

    def _drawn(self, request: LoggedRequest) -> str | None:
        faults = self._options.faults
        if faults is not self._drawn_from:
            self._drawn_from, self._random = faults, random.Random(faults.seed)
        draw = self._random.random()
        if not (faults.reads if request.method == "GET" else faults.writes):
            return None
        for name, probability in faults.probabilities().items():
            draw -= probability
            if draw < 0:
                return name
        return None


def early_answer(
    fault: str, options: SandboxOptions, now_s: float, headers: Mapping[str, str]
) -> Response | None:
    """The answer of a fault that comes before the change; None = closed without one.

    headers: of the rate limits, for those answers that the API itself gives.
    """
    if fault == "drop_before":
        return None
    if fault in ("error_500", "error_503"):
        return error_answer(int(fault[-3:]), headers)
    if fault == "html_502":
        return html_answer(502)
    if fault == "redirect":
        return Response(status_code=302, headers={"location": "http://127.0.0.2:9/elsewhere"})
    return _refused_answer(fault, options, now_s)


def late_answer(fault: str, answer: Response, number: int, headers: Mapping[str, str]) -> Response:
    """What a fault makes of the right answer; those that damage only its delivery keep it."""
    if fault == "error_500_after":
        return error_answer(500, headers)
    if fault in ("html_502_after", "html_200"):
        return html_answer(502 if fault == "html_502_after" else 200)
    if fault == "wrong_json":
        body = _WRONG_BODIES[number % len(_WRONG_BODIES)]
        return Response(body, answer.status_code, dict(headers), "application/json")
    if fault == "wrong_content_type":
        return Response(answer.body, answer.status_code, dict(headers), "text/html")
    return answer


def error_answer(status: int, headers: Mapping[str, str]) -> Response:
    body = orjson.dumps({"error": "Internal error", "message": "Something failed on our side."})
    return Response(body, status, dict(headers), "application/json")


def html_answer(status: int) -> Response:
    return Response(HTML_PAGE, status, media_type="text/html")


def _refused_answer(fault: str, options: SandboxOptions, now_s: float) -> Response:
    """A 429 without `Retry-After` and window headers, or with an HTTP date."""
    dated = fault == "dated_429"
    headers = {"Retry-After": http_date(now_s + options.fault_retry_after_s + 1)} if dated else {}
    body = orjson.dumps({"error": "Too many requests", "message": "Please try again later."})
    return Response(body, 429, headers, "application/json")
