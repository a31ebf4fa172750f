"""An unexpected exception is reported by its type and line; its own message never is."""

from __future__ import annotations

import errno
import io
import logging
import traceback

import pytest

from connector import logs
from connector.errors import ConnectorError, Unexpected
from connector.logs import error_facts
from connector.settings import check_public_url

PERSONAL = "Ada Byron said <p>call me</p> under hc_live_0123456789abcdef"


def fault() -> Exception:
    """An error that quotes a row, raised in a module of ours, and caused by one that does too."""
    try:
        try:
            raise KeyError(PERSONAL)
        except KeyError as cause:
            raise ValueError(PERSONAL) from cause
    except ValueError as error:
        return error


def test_an_unexpected_error_shows_only_its_type_and_our_line():
    """`module:line` of the innermost frame that is the connector's."""
    with pytest.raises(AttributeError) as caught:
        check_public_url(3)  # type: ignore[arg-type]
    reported = Unexpected(caught.value)
    assert isinstance(reported, ConnectorError)
    assert reported.kind == "AttributeError"
    assert reported.where.startswith("connector.settings.tree:")
    assert "Run the command again with -v" in str(reported)
    assert PERSONAL not in str(Unexpected(fault(), doing="reading notes"))


def test_an_error_of_the_system_is_shown_in_its_words():
    """A full disk isn't a bug in the connector; the path, which may name people, is left out."""
    reported = str(Unexpected(OSError(errno.ENOSPC, "No space left", f"/home/{PERSONAL}")))
    assert "No space left on device" in reported
    assert "run the command again" in reported
    assert PERSONAL not in reported
    assert "This is a bug in the connector" in str(Unexpected(OSError(PERSONAL)))


def test_an_error_without_frames_has_a_type_all_the_same():
    """One that was made, not raised."""
    assert "Unexpected ValueError at an unknown line" in str(Unexpected(ValueError(PERSONAL)))


def test_a_foreign_error_becomes_facts_without_its_message():
    """Whatever carries it: summaries, history and alerts are made of these."""
    facts = error_facts(fault())
    assert facts["type"] == "Unexpected"
    assert "ValueError" in facts["message"]
    assert "Ada" not in facts["message"]


@pytest.mark.parametrize("foreign", [False, True])
def test_a_logged_traceback_holds_frames_and_types_only(foreign: bool):
    """Of our own log and of other libraries', causes included; no message, no value."""
    stream, root = io.StringIO(), logging.getLogger()
    before = root.handlers[:], root.level
    logs.configure(2, stream)
    error = fault()
    if foreign:
        logging.getLogger("somelibrary").error("it failed", exc_info=error)
    else:
        logs.get_logger("command").debug("command.unexpected", exc_info=error)
    root.handlers[:], root.level = before
    shown = stream.getvalue()
    assert "KeyError" in shown
    assert "ValueError" in shown
    assert "test_unexpected.py" in shown
    assert "Ada" not in shown
    assert "Ada" in "".join(traceback.format_exception(error)), "the yardstick itself"


def _raised(error: BaseException, cause: BaseException | None = None) -> Unexpected:
    try:
        raise error from cause
    except Exception as caught:  # noqa: BLE001 - whatever the test gives
        return Unexpected(caught)


@pytest.mark.parametrize(
    ("error", "cause", "said"),
    [
        (ValueError("load failed"), OSError(errno.ENOSPC, "x"), "No space left on device"),
        (KeyError("x"), OSError(errno.EMFILE, "x"), "Too many open files"),
        (MemoryError(), None, "Cannot allocate memory"),
        (RuntimeError("can't start new thread"), None, "no more threads"),
    ],
    ids=["full disk", "open files", "memory", "threads"],
)
def test_a_shortage_of_the_system_isnt_a_bug_of_the_connector(
    error: BaseException, cause: BaseException | None, said: str
):
    """Also behind the error that a library made of it."""
    message = str(_raised(error, cause))
    assert said in message
    assert "bug in the connector" not in message
