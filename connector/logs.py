"""Structured logs on stderr, with the run id on every line and secrets taken out.

A log line is a constant event name and values as fields: `log.info("pull.page", rows=200)`.
Redaction is the last line of defence, not the first: the key, emails, phones and note bodies
aren't logged at all; what slips through (in a foreign library's message) is masked here.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, TextIO, cast

import structlog

MASK = "***"
_EMAIL = re.compile(r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)+")
_PHONE = re.compile(r"(?<![\w.:-])\+\d[\d ()-]{7,17}\d(?![\w.:-])")
_BEARER = re.compile(r"(?i)(bearer\s+)[^\s'\",]+")
_USERINFO = re.compile(r"(://[^\s/:@]+:)[^\s/@]+(@)")
_secrets: set[str] = set()


def hide(secret: str) -> None:
    """From now on, mask `secret` wherever it would be logged or printed as an error."""
    if len(secret) >= 4:
        _secrets.add(secret)


def redact(text: str) -> str:
    """`text` without the hidden secrets, bearer tokens, URL passwords, emails and phones."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _BEARER.sub(rf"\1{MASK}", text)
    text = _USERINFO.sub(rf"\1{MASK}\2", text)
    return _PHONE.sub(MASK, _EMAIL.sub(MASK, text))


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: _redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_redacted(item) for item in value]
    if isinstance(value, int | float | bool) or value is None:
        return value
    return redact(str(value))


def _redact_event(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    return {key: _redacted(value) for key, value in event.items()}


class _RedactingHandler(logging.StreamHandler[TextIO]):
    """Foreign libraries (dlt, httpx, uvicorn) log through `logging`; theirs is masked as well."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def _renderer(stream: TextIO) -> Iterable[Any]:
    timestamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    yield structlog.contextvars.merge_contextvars
    yield structlog.processors.add_log_level
    yield timestamp
    yield structlog.processors.format_exc_info
    yield _redact_event
    if stream.isatty():
        yield structlog.dev.ConsoleRenderer(colors=True)
    else:
        yield structlog.processors.LogfmtRenderer(
            key_order=["timestamp", "level", "event", "run_id"], drop_missing=True
        )


def configure(verbosity: int = 0, stream: TextIO | None = None) -> None:
    """Send logs to `stream` (stderr if None). verbosity: -1 warnings, 0 info, 1 debug, 2 all."""
    stream = stream or sys.stderr
    level = {-1: logging.WARNING, 0: logging.INFO}.get(max(-1, verbosity), logging.DEBUG)
    structlog.configure(
        processors=list(_renderer(stream)),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = _RedactingHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbosity >= 2 else logging.WARNING)


def bind_run(run_id: str) -> None:
    """Put `run_id` on every later line of this context."""
    structlog.contextvars.bind_contextvars(run_id=run_id)


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """The logger of one part of the connector; `name` is its folder, as in `budget`."""
    return cast(structlog.typing.FilteringBoundLogger, structlog.get_logger(part=name))
