"""An error as summaries, alerts and run records carry it."""

from __future__ import annotations


def status_of(error: BaseException | None) -> str:
    """`ok`, `stopped` (by a signal) or `failed`: how a run that ended with `error` ended."""
    from connector.errors import Interrupted

    if error is None:
        return "ok"
    return "stopped" if isinstance(error, Interrupted) else "failed"


def error_facts(error: BaseException) -> dict[str, str]:
    """`{"type", "message"}` as every failed summary carries it, without secrets.

    Only errors of the connector's own have a message to show; any other is a fault of it.
    """
    # imported late: the command line imports this, and `--help` would wait for it
    from connector.errors import ConnectorError, Unexpected
    from connector.logs import redact

    error = error if isinstance(error, ConnectorError) else Unexpected(error)
    return {"type": type(error).__name__, "message": redact(str(error))}
