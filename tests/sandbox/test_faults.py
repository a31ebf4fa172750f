"""Faults: each on the wire, scripts, probabilities."""

from __future__ import annotations

from collections import Counter
from email.utils import parsedate_to_datetime

import httpx
import pytest

from connector.sandbox import FAULT_NAMES, Faults, SandboxOptions
from connector.sandbox.faults import FaultPicker
from connector.sandbox.sandbox_options import EARLY_FAULTS
from connector.sandbox.state import LoggedRequest
from tests.sandbox.conftest import Serve

JANE = {"firstName": "Jane", "lastName": "Doe"}


@pytest.mark.parametrize("fault", FAULT_NAMES)
def test_what_a_write_did_before_its_fault(serve: Serve, fault: str):
    """Early faults apply nothing, late ones everything; the connection works again after each."""
    sandbox, client = serve(prospects=0, script={1: fault}, stall_s=0.05, slow_body_s=0.05)
    try:
        client.post("/prospects", json=JANE)
    except httpx.TransportError:
        assert sandbox.requests[0].fault in {
            "drop_before",
            "drop_after",
            "truncate",
            "stall",
            "hang",
        }
    assert sandbox.requests[0].fault == fault
    assert len(sandbox.applied) == (0 if fault in EARLY_FAULTS else 1)
    assert client.get("/auth").status_code == 200


@pytest.mark.parametrize("fault", ["drop_before", "drop_after"])
@pytest.mark.parametrize("requests_before", [0, 1])
def test_a_dropped_connection_gives_no_answer(serve: Serve, fault: str, requests_before: int):
    """Closed by a reset or orderly, on a fresh connection or a used one."""
    sandbox, client = serve(script={requests_before + 1: fault})
    for _ in range(requests_before):
        client.get("/auth")
    with pytest.raises(httpx.TransportError):  # a reset and an orderly end are two of these
        client.get("/auth")
    assert sandbox.requests[-1].status == 0


@pytest.mark.parametrize(
    ("fault", "status", "content_type"),
    [
        ("error_500", 500, "application/json"),
        ("error_503", 503, "application/json"),
        ("error_500_after", 500, "application/json"),
        ("html_502", 502, "text/html; charset=utf-8"),
        ("html_502_after", 502, "text/html; charset=utf-8"),
        ("html_200", 200, "text/html; charset=utf-8"),
        ("redirect", 302, None),
    ],
)
def test_faults_answer_as_the_api_or_as_a_proxy(
    serve: Serve, fault: str, status: int, content_type: str | None
):
    """Status, type and shape: the API's own errors are JSON, a proxy's are pages."""
    _, client = serve(script=[fault])
    answer = client.get("/notes")
    assert answer.status_code == status
    assert answer.headers.get("Content-Type") == content_type
    assert answer.text.startswith("<!DOCTYPE") == (content_type or "").startswith("text")


def test_a_429_without_any_hint_and_one_with_a_date(serve: Serve):
    """No `Retry-After` and no window headers; or a date that lies ahead."""
    _, client = serve(windows=((99, 60),), script=["bare_429", "dated_429"])
    bare, dated = client.get("/notes"), client.get("/notes")
    assert (bare.status_code, dated.status_code) == (429, 429)
    assert not {"retry-after", "ratelimit-limit"} & set(bare.headers)
    ahead = parsedate_to_datetime(dated.headers["Retry-After"])
    assert ahead > parsedate_to_datetime(dated.headers["Date"])


def test_a_truncated_body(serve: Serve):
    """The promised length doesn't come."""
    _, client = serve(script=["truncate"])
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/notes")


@pytest.mark.parametrize("fault", ["stall", "hang"])
def test_a_stalled_answer_ends_with_the_deadline_of_the_client(serve: Serve, fault: str):
    """Nothing more comes; the client's deadline ends it, and the sandbox stops at once."""
    _, client = serve(script=[fault], stall_s=3600.0)
    with pytest.raises(httpx.ReadTimeout):
        client.get("/notes", timeout=0.2)


def test_a_slow_body_arrives_whole(serve: Serve):
    """In pieces, equal in the end."""
    sandbox, client = serve(notes=20, script=["slow_body"], slow_body_s=0.05)
    assert client.get("/notes").json()["items"] == sandbox.store.all("notes")


def test_answers_that_are_not_what_they_claim(serve: Serve):
    """`wrong_json` never is a usable list; `wrong_content_type` has the right body."""
    _, client = serve(notes=3, script=["wrong_json"] * 6 + ["wrong_content_type"])
    for _ in range(6):
        wrong = client.get("/notes")
        assert wrong.headers["Content-Type"] == "application/json"
        assert b"items" not in wrong.content or b"]" not in wrong.content
    mislabeled = client.get("/notes")
    assert mislabeled.headers["Content-Type"].startswith("text/html")
    assert len(mislabeled.json()["items"]) == 3


def test_probabilities_are_kept_and_repeatable():
    """Over 4,000 draws each share is near its probability; the same seed draws the same."""
    faults = Faults(error_500=0.1, drop_after=0.2, seed=7)
    request = LoggedRequest("GET", "/v2/notes", [], 0.0, number=1)

    def draws() -> list[str | None]:
        picker = FaultPicker(SandboxOptions(faults=faults))
        return [picker.pick(request) for _ in range(4000)]

    counts = Counter(draws())
    assert set(counts) == {None, "error_500", "drop_after"}
    assert counts["error_500"] == pytest.approx(400, rel=0.25)
    assert counts["drop_after"] == pytest.approx(800, rel=0.25)
    assert draws() == draws()


def test_faults_may_spare_reads_or_writes(serve: Serve):
    """Only what was asked for is hit."""
    sandbox, client = serve(faults=Faults(error_503=1.0, reads=False))
    assert client.get("/notes").status_code == 200
    assert client.post("/notes", json={}).status_code == 503
    sandbox.options.faults = Faults(error_503=1.0, writes=False)
    assert client.get("/notes").status_code == 503
    assert client.post("/notes", json={}).status_code == 400


def test_scripts_come_before_probabilities(serve: Serve):
    """By number, by list, by callable; None is surely no fault, but for a callable's."""
    sandbox, client = serve(faults=Faults(error_503=1.0), script={1: None, 2: "html_502"})
    assert [client.get("/auth").status_code for _ in range(3)] == [200, 502, 503]
    sandbox.clear_log()
    sandbox.options.script = [None, "error_500"]
    assert [client.get("/auth").status_code for _ in range(3)] == [200, 500, 503]
    sandbox.options.script = lambda request: "html_502" if request.method == "POST" else None
    assert client.post("/notes", json={}).status_code == 502
    assert client.get("/auth").status_code == 503


def test_impossible_probabilities_are_refused():
    """Above one in sum."""
    with pytest.raises(ValueError, match="above 1"):
        Faults(error_500=0.7, error_503=0.7)


def test_evenly_shares_a_total():
    """Every fault but the terminal one, adding up to the total."""
    faults = Faults.evenly(0.3, without=("hang",))
    shares = faults.probabilities
    assert sum(shares.values()) == pytest.approx(0.3)
    assert set(shares) == set(FAULT_NAMES) - {"redirect", "hang"}
