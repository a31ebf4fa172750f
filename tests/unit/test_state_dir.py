"""The state directory: private, one per user, never another user's folder, and moved once."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import tarfile
from pathlib import Path

import pytest

from connector.errors import AlreadyRunning, StateConflict
from connector.settings.folders import (
    LEDGER,
    default_state_dir,
    effective_state_dir,
    open_state_dir,
)

FIXTURE = Path(__file__).parents[1] / "fixtures/state-0.1.tar.xz"


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def unpack(folder: Path) -> Path:
    """A real `.hiringcenter` of version 0.1: two pulls, and three people pushed twice."""
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(folder, filter="data")
    return folder / ".hiringcenter"


def receipts(state: Path) -> int:
    with sqlite3.connect(state / "ledger-outbox.db") as connection:
        return int(connection.execute("SELECT count(*) FROM outbox_receipts").fetchone()[0])


def test_it_is_made_for_this_user_alone(tmp_path: Path):
    """0700 whatever the umask; the folders above it, which analysts may use, stay open."""
    mask = os.umask(0o077)
    try:
        path = open_state_dir(tmp_path / "data/.state")
    finally:
        os.umask(mask)
    assert path == tmp_path / "data/.state"
    assert (mode(path), mode(tmp_path / "data")) == (0o700, 0o755)
    assert effective_state_dir(tmp_path / "data/.state") == path, "the same folder the next time"


def test_a_folder_that_was_there_is_neither_closed_nor_filled(tmp_path: Path):
    """A mounted volume or a shared folder: a subfolder of ours holds everything."""
    shared = tmp_path / "shared"
    (shared / "lost+found").mkdir(parents=True)
    shared.chmod(0o1777)
    path = open_state_dir(shared)
    assert path == shared / "hiringcenter"
    assert (mode(shared), mode(path)) == (0o1777, 0o700)
    assert sorted(each.name for each in shared.iterdir()) == ["hiringcenter", "lost+found"]


def test_a_state_of_version_0_1_moves_in_whole(tmp_path: Path):
    """Receipts, history and working files: what was pushed is still known."""
    old = unpack(tmp_path)
    before = sorted(path.relative_to(old) for path in old.rglob("*"))
    new = open_state_dir(default_state_dir(), old=old)
    assert not old.exists()
    assert set(before) <= {path.relative_to(new) for path in new.rglob("*")}
    assert (receipts(new), mode(new)) == (3, 0o700)
    assert open_state_dir(default_state_dir(), old=old) == new


def test_it_moves_to_another_file_system_as_well(tmp_path: Path, elsewhere: Path) -> None:
    """Where a rename can't: copied whole before the old one goes."""
    old = unpack(tmp_path)
    assert receipts(open_state_dir(elsewhere / "state", old=old)) == 3
    assert not old.exists()


def test_two_states_that_both_know_what_was_sent_are_refused_with_the_ways_out(tmp_path: Path):
    """Neither is dropped in silence: a row could be sent twice."""
    old = unpack(tmp_path)
    open_state_dir(default_state_dir(), old=old)
    other = unpack(tmp_path)
    with pytest.raises(StateConflict) as refused:
        open_state_dir(default_state_dir(), old=other)
    assert "HIRINGCENTER_STATE_DIR" in str(refused.value)
    assert "--new-ledger" in str(refused.value)
    assert receipts(other) == receipts(default_state_dir()) == 3
    assert open_state_dir(other, old=other) == other, "the way out that the message names"


def test_a_state_without_history_gives_way(tmp_path: Path):
    """A user has only asked `status` from another folder before the upgrade."""
    open_state_dir(default_state_dir())
    assert receipts(open_state_dir(default_state_dir(), old=unpack(tmp_path))) == 3


def test_a_state_directory_set_by_hand_is_kept(tmp_path: Path):
    """What lies in the working folder isn't a reason to stop then."""
    own = open_state_dir(tmp_path / "own", old=unpack(tmp_path / "a"))
    other = unpack(tmp_path / "b")
    assert open_state_dir(tmp_path / "own", old=other) == own
    assert other.exists()


def test_a_state_in_use_stays_until_its_run_has_ended(tmp_path: Path):
    """Exit 75: a push of version 0.1 is at work in it."""
    old = unpack(tmp_path)
    lock = next(old.glob("locks/*.lock"))
    with lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(AlreadyRunning, match=r"version 0\.1"):
            open_state_dir(default_state_dir(), old=old)
    assert receipts(open_state_dir(default_state_dir(), old=old)) == 3


@as_root
def test_the_state_of_another_user_is_not_taken_over(tmp_path: Path):
    """A `.hiringcenter` that another user planted in a shared folder isn't trusted."""
    old = unpack(tmp_path)
    os.chown(old, 65534, 65534)
    new = open_state_dir(default_state_dir(), old=old)
    assert old.exists()
    assert not (new / LEDGER).exists()
