"""Errors of the destination, described without quoting any row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import sqlalchemy as sa

from connector.errors import (
    ConfigurationError,
    ConnectorError,
    DestinationError,
    DestinationRefused,
)
from connector.logs import redact

# Errors of a connection, a file or a configuration name hosts, paths and fields; those of data
# quote values. Matched at the start of the name: every ...Exception and ...Violation has an "io".
_SAFE = re.compile(
    r"(IO|Connection|Operational|Permission|Catalog|Fatal|OutOfMemory|Config|DiskFull|Insufficient)"
)


# of drivers, whose modules have other names
_PACKAGES = {"MySQLdb": "mysqlclient", "psycopg2": "dlt[postgres]", "google": "dlt[bigquery]"}
_CAUSES = ("exception", "job_exception", "client_exception")
# SQLSTATE, https://www.postgresql.org/docs/current/errcodes-appendix.html
_REFUSING_CLASSES = {"22", "23", "42", "54"}
_NOT_REFUSING = {"42501", "42P01"}  # no privilege, no such table
_DUCKDB_REFUSALS = (
    duckdb.BinderException,
    duckdb.ConstraintException,
    duckdb.ConversionException,
    duckdb.InvalidInputException,
    duckdb.OutOfRangeException,
    duckdb.ParserException,
    duckdb.TypeMismatchException,
)


def chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and its causes, down to the first error."""
    seen: set[int] = set()
    below: object = error
    while isinstance(below, BaseException) and id(below) not in seen:
        seen.add(id(below))
        yield below
        inside = (getattr(below, name, None) for name in _CAUSES)  # dlt wraps without `from`
        below = next(filter(None, inside), None) or below.__cause__ or below.__context__


def root_cause(error: BaseException) -> BaseException:
    """The first error, at the end of the chain."""
    return list(chain(error))[-1]


def describe(error: BaseException) -> str:
    """The kind of error and, if it can't quote a row, its first line."""
    cause = root_cause(error)
    name = type(cause).__name__
    code = getattr(cause, "pgcode", None)
    title = f"{name} {code}" if code else name
    is_damage = isinstance(cause, duckdb.Error) and "corrupt" in str(cause)[:80].lower()
    is_safe = isinstance(cause, OSError) or _SAFE.match(name) or is_damage
    if not is_safe or not str(cause).strip():
        return title
    return f"{title}: {redact(str(cause).strip().splitlines()[0])}"


def is_refusal(error: BaseException) -> bool:
    """Whether the destination would refuse the same load again: of names, types, numbers, sizes.

    A missing relation isn't a refusal: it was dropped, and is created again.
    """
    cause = root_cause(error)
    if isinstance(cause, _DUCKDB_REFUSALS):
        return True
    code = str(getattr(cause, "pgcode", None) or "")
    if code:
        return code[:2] in _REFUSING_CLASSES and code not in _NOT_REFUSING
    from dlt.destinations.exceptions import DatabaseTerminalException

    return any(isinstance(each, DatabaseTerminalException) for each in chain(error))


def load_failed(error: BaseException) -> ConnectorError:
    """The failure of a load as one of our errors."""
    if isinstance(error, DestinationError):
        return error
    from dlt.common.configuration.exceptions import ConfigurationException

    if (missing := missing_package(error)) is not None:
        return missing
    if isinstance(root_cause(error), ConfigurationException):
        return ConfigurationError(
            f"dlt can't use the destination's settings: {describe(error)}. "
            f"{_credentials_advice(error)}"
        )
    if is_refusal(error):
        return DestinationRefused(reason=describe(error))
    return DestinationError(
        f"Writing to the destination failed: {describe(error)}. Rows loaded before it are "
        "kept, and the next run resumes from there. Check that the destination is reachable, "
        "writable and not full (`hiringcenter check`), then run the command again."
    )


def missing_package(error: BaseException) -> ConfigurationError | None:
    """What to install, if a package that the destination needs is missing; else None."""
    from dlt.common.exceptions import MissingDependencyException

    for each in chain(error):
        if isinstance(each, MissingDependencyException):
            needed = list(each.dependencies)
        elif isinstance(each, ModuleNotFoundError) and each.name:
            top = each.name.partition(".")[0]
            needed = [_PACKAGES.get(top, top)]
        elif isinstance(each, sa.exc.NoSuchModuleError):
            return ConfigurationError(
                "SQLAlchemy has no such database type or driver. Correct the beginning of the "
                "credentials, such as mysql+pymysql://, or install the package that adds it."
            )
        else:
            continue
        commands = ", ".join(f'pip install "{name}"' for name in needed)
        return ConfigurationError(
            f"The destination needs a package that isn't installed. Install it: {commands}"
        )
    return None


def _credentials_advice(error: BaseException) -> str:
    from dlt.common.configuration.exceptions import ConfigFieldMissingException

    for each in chain(error):
        if isinstance(each, ConfigFieldMissingException):
            found = dict.fromkeys(_missing_variables(each.traces))
            if found:
                return f"Missing: {', '.join(found)}. Set them, or the same in .dlt/secrets.toml."
    return "Give credentials the dlt way; none of their parts may be empty or malformed."


def _missing_variables(traces: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """The environment variable of each field that dlt has found nowhere; of fields that may be
    given in several ways, those of the first."""
    for tried in traces.values():
        inner = [each for each in tried if hasattr(each, "traces")]
        if inner:
            yield from _missing_variables(inner[0].traces)
            continue
        keys = [each.key for each in tried if str(each.key).startswith("DESTINATION__")]
        if keys and all(each.value is None for each in tried):
            yield keys[0]


@contextmanager
def translated() -> Iterator[None]:
    """Turn errors of dlt and of a destination's libraries into ours, without row values."""
    try:
        yield
    except ConnectorError:
        raise
    except Exception as error:
        raise load_failed(error) from error
