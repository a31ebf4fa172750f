"""Structured logs on stderr, with the run id on every line and secrets taken out.

A log line is a constant event name and values as fields: `log.info("pull.page", rows=200)`.
Redaction is the last line of defense, not the first: the key, emails, phones and note bodies
aren't logged at all; whatever slips through (in another library's message) is masked here.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TextIO, cast

import structlog

from connector.errors import ConnectorError, Unexpected, printable

MASK = "***"
# Possessive (`++`) and anchored at the start of a word: otherwise a long word without a match
# takes time quadratic in its length.
_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]++@[\w-]++(?:\.[\w-]++)++")
_PHONE = re.compile(r"(?<![\w.:-])\+\d[\d ()-]{7,17}\d(?![\w.:-])")
_BEARER = re.compile(r"(?i)(bearer\s++)[^\s'\",]++")
_USERINFO = re.compile(r"(://[^\s/:@]++:)[^\s/@]++(@)")
_LONGEST = 100_000
"""Characters of a text that are searched; the text beyond is left out."""
_secrets: set[str] = set()


def hide(secret: str) -> None:
    """From now on, mask `secret` wherever it would be logged or printed as an error."""
    if len(secret) >= 4:
        _secrets.add(secret)


def masked(text: str) -> str:
    """`text` without the hidden secrets, otherwise unchanged."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def redact(text: str) -> str:
    """`text`, printable and without the hidden secrets, bearer tokens, URL passwords, emails and
    phones."""
    text = masked(printable(text))
    if len(text) > _LONGEST:
        text = text[:_LONGEST].rsplit(None, 1)[0] + " …"  # no half of an email
    text = _BEARER.sub(rf"\1{MASK}", text)
    text = _USERINFO.sub(rf"\1{MASK}\2", text)
    return _PHONE.sub(MASK, _EMAIL.sub(MASK, text))


def error_facts(error: BaseException) -> dict[str, str]:
    """`{"type", "message"}` as every failed summary carries it, without secrets.

    Only the connector's own errors show their message; any other exception is a bug in it.
    """
    error = error if isinstance(error, ConnectorError) else Unexpected(error)
    return {"type": type(error).__name__, "message": redact(str(error))}


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(key)): _redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_redacted(item) for item in value]
    if isinstance(value, int | float | bool) or value is None:
        return value
    return redact(str(value))


def traceback_of(error: BaseException) -> str:
    """Files, lines and types of `error` and its causes. No messages, no values: an exception's
    message may quote a row."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = [traceback_of(cause)] if cause is not None else []
    frames = "".join(traceback.format_tb(error.__traceback__)).rstrip()
    return "\n".join([*before, frames, type(error).__name__]).lstrip("\n")


def _format_exception(exc_info: Any) -> str:
    return traceback_of(exc_info[1]) if exc_info[1] is not None else ""


class _RedactingFormatter(logging.Formatter):
    """Other libraries (dlt, httpx, uvicorn) log through `logging`; their lines are masked too."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        return _format_exception(ei)


def _renderer(stream: TextIO, shape: str) -> Iterable[Any]:
    yield structlog.contextvars.merge_contextvars
    yield structlog.processors.add_log_level
    yield structlog.processors.TimeStamper(fmt="iso", utc=True)
    yield structlog.processors.ExceptionRenderer(_format_exception)
    yield lambda _logger, _method, event: _redacted(event)
    if shape == "json":
        yield structlog.processors.JSONRenderer()
    elif stream.isatty():
        yield structlog.dev.ConsoleRenderer(colors=True)
    else:
        yield structlog.processors.LogfmtRenderer(
            key_order=["timestamp", "level", "event", "run_id"], drop_missing=True
        )


class _Stderr:
    """Whatever `sys.stderr` is when a line is written: a progress bar replaces it so that log lines
    appear above the bar."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def configure(
    verbosity: int = 0, stream: TextIO | None = None, *, shape: Literal["text", "json"] = "text"
) -> None:
    """Send logs to `stream` (stderr if None). verbosity: -1 warnings, 0 info, 1 debug, 2 all.

    shape: `text` is human-readable on a terminal and logfmt elsewhere; `json` is one object a line.
    """
    stream = stream or cast("TextIO", _Stderr())
    level = {-1: logging.WARNING, 0: logging.INFO}.get(max(-1, verbosity), logging.DEBUG)
    structlog.configure(
        processors=list(_renderer(stream, shape)),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_RedactingFormatter("%(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbosity >= 2 else logging.WARNING)


def bind_account(name: str) -> None:
    """Put the account on every later line of this context, and drop the last account's run id."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(account=name)


def bind_run(run_id: str) -> None:
    """Put `run_id` on every later line of this context."""
    structlog.contextvars.bind_contextvars(run_id=run_id)


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """The logger of one part of the connector; `name` is its folder, as in `budget`."""
    return cast(structlog.typing.FilteringBoundLogger, structlog.get_logger(part=name))
