"""First pulls that many tests begin with: each is run once in a session, and what it left is copied
for every later test.

The ledger, the working file and the copy know their paths, the API's address and the database's
name. So all these tests work in one folder and one database, and their servers at two ports, which
the session keeps.
"""

from __future__ import annotations

import copy
import itertools
import math
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from connector.sandbox import RESOURCES, LoggedRequest, Sandbox, SandboxOptions
from connector.sandbox.server import HOST
from pipelines.destination.working_file import WorkRecord
from tests.sync.pull.between import Between

if TYPE_CHECKING:
    from connector.settings import Settings
    from pipelines.pull.pull_run import PullReport
    from tests.sync.pull.conftest import Puller

DATABASE = "pulled"
_FOLLOWED_S = 300.0  # what was received is asked for after a quarter of an hour


class KeptPort:
    """A port of 127.0.0.1 that no other process gets between two tests."""

    def __init__(self) -> None:
        self._listening = socket.create_server((HOST, 0), backlog=1024)
        self._listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number: int = self._listening.getsockname()[1]

    def listen(self) -> socket.socket:
        """The same socket, to be closed by who serves it. Who connected before isn't served."""
        self._listening.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self._listening.accept()[0].close()
        self._listening.setblocking(True)
        return self._listening.dup()

    def close(self) -> None:
        self._listening.close()


class SandboxAtKeptPort(Sandbox):
    def __init__(self, options: SandboxOptions, port: KeptPort) -> None:
        super().__init__(options, port=port.number)
        self._kept = port

    def listen(self) -> socket.socket:
        return self._kept.listen()


@dataclass
class _Left:
    """What a first pull left: files, a database, its report, and what the servers were asked.
    began_s: UTC epoch seconds."""

    began_s: float
    files: Path
    database: str
    report: PullReport
    requests: list[LoggedRequest]
    unknown_parameters: list[str]
    asked: list[str]


class FirstPulls:
    """place: the folder that tests work in, one after the other; it is emptied for each."""

    def __init__(self, folder: Path) -> None:
        self.place = folder / "place"
        self._kept_files = folder
        self._ports = KeptPort(), KeptPort()
        self._left: dict[str, _Left] = {}
        self._numbers = itertools.count()

    def close(self) -> None:
        for port in self._ports:
            port.close()

    def empty_place(self) -> None:
        """What a thread of an earlier test still writes lands elsewhere."""
        if self.place.exists():
            earlier = self.place.rename(self._kept_files / f"earlier_{next(self._numbers)}")
            shutil.rmtree(earlier, ignore_errors=True)
        self.place.mkdir()

    def sandbox(self, options: SandboxOptions) -> Sandbox:
        return SandboxAtKeptPort(options, self._ports[0])

    def between(self, upstream: str) -> Between:
        return Between(upstream, self._ports[1].listen())

    def pulled(self, puller: Puller, lists: tuple[str, ...]) -> PullReport:
        """As `puller.pull_ok(*lists)`: run the first time, copied then."""
        assert not any(self.place.iterdir()), "what is there would be removed"
        self._begin(puller, lists, partial(puller.pull_ok, *lists))
        return puller.reports[-1]

    def followed(self, puller: Puller, scan: Callable[[], PullReport]) -> float:
        """As `scan`, a pull of prospects in an account whose events are received; when it began,
        UTC epoch s. The inbox, which is empty, must be closed."""
        return self._begin(puller, ("followed",), scan, max_age_s=_FOLLOWED_S).began_s

    def _begin(
        self,
        puller: Puller,
        name: tuple[str, ...],
        pull: Callable[[], PullReport],
        *,
        max_age_s: float = math.inf,
    ) -> _Left:
        _refuse_changes(puller)
        key, began_s = _key(puller, name), time.time()
        left = self._left.get(key)
        if left is None or began_s - left.began_s > max_age_s:
            self._left[key] = self._keep(puller, pull(), began_s)
            return self._left[key]
        shutil.rmtree(self.place)
        shutil.copytree(left.files, self.place)
        if puller.postgres_url is None:
            _adopt_copy(puller.settings)
        else:
            make_database(puller.postgres_url, DATABASE, template=left.database)
        puller.sandbox.requests = [replace(each) for each in left.requests]
        puller.sandbox.unknown_parameters = [*left.unknown_parameters]
        if puller.between is not None:
            puller.between.asked.extend(left.asked)
        puller.reports.append(copy.deepcopy(left.report))
        return left

    def _keep(self, puller: Puller, report: PullReport, began_s: float) -> _Left:
        name = f"kept_{next(self._numbers)}"
        left = _Left(
            began_s,
            self._kept_files / name,
            name,
            copy.deepcopy(report),
            [replace(each) for each in puller.sandbox.requests],
            [*puller.sandbox.unknown_parameters],
            [*puller.between.asked] if puller.between else [],
        )
        shutil.copytree(self.place, left.files)
        if puller.postgres_url is not None:
            make_database(puller.postgres_url, name, template=DATABASE)
        return left


def _refuse_changes(puller: Puller) -> None:
    """What isn't in the key must be as it was, or a test would change what others begin with."""
    sandbox, between = puller.sandbox, puller.between
    options = sandbox.options
    assert not sandbox.requests, "the first pull comes first"
    assert {sandbox.store.table(each).version for each in RESOURCES} == {1}
    assert (sandbox.on_request, options.script, options.faults.probabilities) == (None, None, {})
    assert between is None or between.is_plain
    assert puller.settings.key == sandbox.api_key
    assert puller.settings.pull.hash_key is None
    assert puller.settings.ledger_url is None


def _key(puller: Puller, lists: tuple[str, ...]) -> str:
    """Everything that decides what a first pull leaves behind."""
    options = {**vars(puller.sandbox.options), "faults": None}
    settings = puller.settings.model_dump(exclude={"project"})
    return repr((lists, settings, options, puller.between is not None))


def _adopt_copy(settings: Settings) -> None:
    """The published file is recognized by its inode, which a copy doesn't share."""
    for noted in settings.state_dir.glob("work/*/published.json"):
        found = settings.duckdb_path.stat()
        stamp = [found.st_ino, found.st_size, found.st_mtime_ns]
        WorkRecord.read(noted.parent).save(copies=[stamp])


def make_database(url: str, name: str, *, template: str = "template1") -> str:
    """Make a database on the server of `url`, instead of one with this name; returns its URL."""
    own = sa.make_url(url)
    server = own.set(drivername="postgresql+psycopg", database="postgres")
    admin = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    end = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = :name"
    with admin.connect() as connection:
        if template != "template1":  # sessions that were closed just now may not have ended yet
            connection.execute(sa.text(end), {"name": template}).all()
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    admin.dispose()
    return own.set(database=name).render_as_string(hide_password=False)
