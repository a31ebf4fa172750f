"""A full disk: what was done is still reported, and the next run recovers."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest
import structlog

from connector.errors import DestinationError
from pipelines.destination.identity import work_paths
from pipelines.destination.working_file import rewrite_file
from pipelines.pull.pull_run import Wanted, pull
from pipelines.running.progress import Progress, ProgressState
from tests.sync.pull.conftest import Puller

ROOM_BYTES = 1024  # of any one file, the ledger's log of changes among them


class FillsUp(Progress):
    """A progress: no file of this process grows once a page has landed, until the pull ends."""

    def __init__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def show(self, _: ProgressState) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES, self._before[1]))

    def stop(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


@pytest.fixture
def room() -> Iterator[None]:
    """There is room again, whatever the test did."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("room")
def test_a_ledger_without_room_doesnt_hide_what_a_pull_did(puller: Puller):
    """From its first page on no file can grow: exit 1, a clear error, and the counts so far."""
    with structlog.testing.capture_logs():  # pytest's file can't grow either
        report = pull(puller.settings, Wanted(("notes",)), lambda _: FillsUp())
    assert report.exit_code == 1
    assert "bug in the connector" not in str(report.error)
    assert report.summary["status"] == "failed"
    assert report.summary["resources"]["notes"]["rows_read"] == 200
    healed = puller.pull_ok("notes")
    assert healed.summary["resources"]["notes"]["rows"] == 200


@pytest.mark.usefixtures("room")
def test_a_file_that_cant_be_rewritten_leaves_nothing_of_its_copy(puller: Puller):
    """As `forget` does it: the copy takes as much room as the file, and its log some more."""
    puller.pulled()
    path = work_paths(puller.settings).working_file
    files = set(path.parent.iterdir())
    _, hard_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20 * ROOM_BYTES, hard_limit))
    with pytest.raises(DestinationError):
        rewrite_file(path)
    assert set(path.parent.iterdir()) == files
