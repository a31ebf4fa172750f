"""Logs: on stderr, structured, with the run id, and with nothing secret or personal in them."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from connector import logs

KEY = "hc_live_0123456789abcdef"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    buffer = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    logs.hide(KEY)
    logs.configure(2, buffer)
    yield buffer
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()
    root.handlers[:], root.level = before[0], before[1]


@pytest.mark.parametrize(
    "secret",
    [KEY, "ana.lópez@example.com", "+1 (555) 123-4567", "Bearer abc.def", "postgresql://u:pw@h/db"],
)
def test_nothing_secret_passes_in_a_value_or_through_a_foreign_library(
    stream: io.StringIO, secret: str
):
    """Fields, nested fields, exceptions and other libraries' messages are all masked."""
    log = logs.get_logger("api")
    log.info("api.answer", text=f"sent {secret} away", nested={"a": [secret]})
    logging.getLogger("somelibrary").warning("oops %s", secret)
    try:
        raise ValueError(secret)
    except ValueError:
        log.exception("api.failed")
    hidden = "pw" if "pw@" in secret else secret.removeprefix("Bearer ")
    assert hidden not in stream.getvalue().replace("db", "")
    assert stream.getvalue().count(logs.MASK) == 3
    assert "raise ValueError(secret)" in stream.getvalue(), "exceptions: where, not what"


def test_run_id_is_on_every_line(stream: io.StringIO):
    """Bound once, it is on all later lines."""
    logs.bind_run("20261122T000000Z-abcd")
    logs.get_logger("budget").warning("budget.hold", reason="429", window_s=60)
    assert "run_id=20261122T000000Z-abcd" in stream.getvalue()
    assert "event=budget.hold" in stream.getvalue()
    assert "window_s=60" in stream.getvalue()


@given(before=st.text(max_size=20), after=st.text(max_size=20))
def test_a_hidden_secret_is_masked_wherever_it_stands(before: str, after: str):
    """Whatever surrounds it."""
    logs.hide(KEY)
    assert KEY not in logs.redact(before + KEY + after)
