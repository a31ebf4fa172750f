"""Labels of version 0.1 in the ledger: replaced with today's, and erased.

Version 0.1 named a server after what follows the @ in the variable of its credentials: with
`?password=` in it, or the whole of a service account's JSON. What the ledger keeps under such a
label (run history, freshness, results that haven't landed, the working folder) moves to the label
of the same location.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import sqlalchemy as sa

from connector.budget import locks
from connector.budget.database import Database, table_names
from connector.budget.ledger_schema import OUTBOX_SUFFIX
from connector.errors import ConfigurationError
from connector.logs import get_logger
from connector.runs import FreshnessLog, RunHistory
from connector.settings import Settings
from pipelines.destination.identity import destination_label, label_of, number_of, work_folder

_log = get_logger("ledger")
_LABEL = re.compile(r"(?P<name>[^:]*):(?P<rest>.*)#(?P<dataset>[A-Za-z_][A-Za-z0-9_]{0,62})", re.S)
_runs = sa.table("runs", *map(sa.column, ("label", "lock_name", "error", "summary")))
_holders = sa.table("lock_holders", sa.column("name"))
_results = sa.table("push_results", sa.column("destination"))
_freshness_tables = [
    sa.table(name, *map(sa.column, ("label", "resource", "last_pull_ms")))
    for name in ("freshness", "freshness_published")
]


def settle_labels(settings: Settings, ledger: Database) -> None:
    """Move what the ledger has under labels of version 0.1. Costs a query if nothing is left.

    Raises:
        BudgetError: the ledger, or its outbox, can't be written.
    """
    RunHistory(ledger), FreshnessLog(ledger)  # create their tables
    ledger.migrate("locks", locks.MIGRATIONS)
    old, own = _label_of_old(settings), None
    with suppress(ConfigurationError):
        own = destination_label(settings)
    is_done = bool(ledger.version("labels"))
    moves: dict[str, str] = {}
    for index, label in enumerate(sorted(_labels(ledger, only=old if is_done else None)), 1):
        new = own if own and label == old else label if is_done else cleaned(label, index)
        if new != label:
            moves[label] = new
    if is_done and not moves:
        return
    with _outbox(settings, ledger) as outbox:
        if moves:
            _move(settings.state_path / "work", ledger, outbox, moves)
        if outbox is not None:
            outbox.scrub()
    ledger.scrub()
    ledger.migrate("labels", (lambda _: None,))


def cleaned(label: str, index: int) -> str:
    """A label of version 0.1 reduced to its location. index: numbers unknown locations."""
    found = _LABEL.fullmatch(label)
    if not found or found["rest"] == "configured":  # the latter moves once its settings are in use
        return label
    name, rest, dataset = found["name"], found["rest"], found["dataset"]
    return f"{_location_of(name, rest) or f'{name}:unknown {index}'}#{dataset}"


def _location_of(name: str, rest: str) -> str | None:
    if name == "duckdb":
        return f"duckdb:{os.path.realpath(rest)}"
    if name == "motherduck" or rest.startswith("md:"):
        return label_of("motherduck", {"credentials": {"database": rest}})
    if re.search(r"""[{}"\s]""", rest):
        return label_of("bigquery", {"project_id": _project(rest)})
    with suppress(ValueError):
        parts = urlsplit(rest if "://" in rest else f"//{rest}")
        credentials = {
            "host": parts.hostname,
            "port": parts.port,
            "database": parts.path.lstrip("/"),
            "query": dict(parse_qsl(parts.query)),
            "drivername": parts.scheme,
        }
        return label_of(name, {"credentials": credentials})
    return None


def _project(text: str) -> str | None:
    """The project of a service account's JSON, or of what follows the @ in it."""
    with suppress(ValueError, TypeError, KeyError):
        return str(json.loads(text)["project_id"])
    found = re.search(r'"project_id"\s*:\s*"([^"]+)"', text) or re.match(
        r"([a-z0-9-]+)\.iam\.gserviceaccount\.com", text
    )
    return found[1] if found else None


def _label_of_old(settings: Settings) -> str:
    """What version 0.1 called the destination of these settings."""
    if settings.destination == "duckdb":
        return f"duckdb:{settings.duckdb_path.absolute()}#{settings.dataset}"
    url = os.environ.get(f"DESTINATION__{settings.destination.upper()}__CREDENTIALS", "")
    return f"{settings.destination}:{url.rpartition('@')[2] or 'configured'}#{settings.dataset}"


def _labels(ledger: Database, *, only: str | None) -> set[str]:
    """The labels in the ledger; with `only`, that one if it is there."""
    found: set[str] = set()
    with ledger.read() as connection:
        for table in (_runs, *_freshness_tables):
            query = sa.select(table.c.label).distinct()
            if only is not None:
                query = query.where(table.c.label == only)
            found.update(connection.scalars(query))
    return found


def _move(work: Path, ledger: Database, outbox: Database | None, moves: Mapping[str, str]) -> None:
    """Outbox and folders come first: after a kill, the ledger still knows what is to be moved."""
    with ledger.write() as connection:
        if outbox is not None:
            _move_results(outbox, moves)
        for old, new in moves.items():
            old_folder, new_folder = work / _folder_of(old), work / _folder_of(new)
            if old_folder.is_dir() and not new_folder.exists():
                old_folder.rename(new_folder)
            locks.forget_file(ledger, _lock_of(old))
            for table in _freshness_tables:
                _move_freshness(connection, table, old, new)
            connection.execute(sa.update(_runs).where(_runs.c.label == old).values(label=new))
            _move_lock(connection, _lock_of(old), _lock_of(new))
            if not old.startswith("duckdb:"):
                _clean_texts(connection, old, new)
    _log.info("ledger.labels_moved", labels=len(moves))


def _location_in(label: str) -> str:
    """What lock and folder are named after: all datasets of a DuckDB file share them."""
    return label.rpartition("#")[0] if label.startswith("duckdb:") else label


def _lock_of(label: str) -> str:
    return f"pull into {_location_in(label)}"


def _folder_of(label: str) -> str:
    name, _, dataset = label.rpartition("#")
    plain = Path(name.partition(":")[2]).stem if name.startswith("duckdb:") else dataset
    return work_folder(plain, _location_in(label))


def _move_results(outbox: Database, moves: Mapping[str, str]) -> None:
    with outbox.write() as connection:
        if _results.name not in table_names(connection):
            return
        for old, new in moves.items():
            connection.execute(
                sa.update(_results)
                .where(_results.c.destination == number_of(old))
                .values(destination=number_of(new))
            )


def _move_freshness(connection: sa.Connection, table: sa.TableClause, old: str, new: str) -> None:
    """If a resource is known under both labels, the newer entry stays."""
    query = sa.select(table.c.resource, table.c.last_pull_ms)
    known = {
        row.resource: row.last_pull_ms
        for row in connection.execute(query.where(table.c.label == new))
    }
    for resource, pulled_ms in connection.execute(query.where(table.c.label == old)).all():
        mine = table.c.resource == resource
        worse = old if known.get(resource, -1) >= pulled_ms else new
        connection.execute(sa.delete(table).where(mine, table.c.label == worse))
        connection.execute(sa.update(table).where(mine, table.c.label == old).values(label=new))


def _move_lock(connection: sa.Connection, old: str, new: str) -> None:
    connection.execute(sa.update(_runs).where(_runs.c.lock_name == old).values(lock_name=new))
    is_taken = connection.scalar(sa.select(_holders.c.name).where(_holders.c.name == new))
    mine = _holders.c.name == old
    move = sa.delete(_holders) if is_taken else sa.update(_holders).values(name=new)
    connection.execute(move.where(mine))


def _clean_texts(connection: sa.Connection, old: str, new: str) -> None:
    """Replace the label in errors and summaries of runs, plain and inside JSON."""
    for before, after in ((old, new), (json.dumps(old)[1:-1], json.dumps(new)[1:-1])):
        for column in (_runs.c.error, _runs.c.summary):
            connection.execute(
                sa.update(_runs)
                .where(column.contains(before, autoescape=True))
                .values({column.name: sa.func.replace(column, before, after)})
            )


@contextmanager
def _outbox(settings: Settings, ledger: Database) -> Iterator[Database | None]:
    """The outbox of the ledger; None where there is none yet."""
    path = ledger.path
    if path is not None and not path.with_name(f"{path.stem}-outbox{path.suffix}").exists():
        yield None
        return
    url = settings.resolved_ledger_url
    with closing(Database(url, durable=True, suffix=OUTBOX_SUFFIX)) as database:
        yield database
