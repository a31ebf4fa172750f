"""Forgets that are killed, or begun during a push: nothing of the person is left."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import func, select

from connector.budget import locks
from connector.budget.database import Database
from connector.budget.ledger_schema import OUTBOX_SUFFIX
from connector.sandbox import LoggedRequest
from tests.processes.file_operations import FileFault
from tests.processes.forget_kills import KilledForgets, environment, made_folder
from tests.processes.pull_kills import small_sandbox
from tests.processes.zygote import Zygote
from tests.sync.pull.traces import SOUGHT, add_person, found_in, people_file

_PATIENCE_S = 300.0
AT = (
    "chmod state/work",  # rows are deleted, the working file is rewritten, not in its place yet
    "rename data/hiringcenter.duckdb",  # the published copy is made, and not in its place yet
)


@pytest.mark.slow
def test_a_killed_forget_is_done_to_the_end_by_the_next_one(tmp_path: Path):
    """By email, which finds no row any more once the rows are deleted: nothing of them is left, in
    no file. `make bench ARGS=forget_kills` tries every tenth file operation."""
    with (
        small_sandbox() as sandbox,
        Zygote(made_folder(tmp_path / "run"), environment(sandbox), watches_files=True) as zygote,
    ):
        add_person(sandbox)
        forgets = KilledForgets(zygote, sandbox)
        forgets.try_all(FileFault(kill_at=part) for part in AT)
        assert forgets.wrong == []
        assert len(forgets.killed) == len(AT)


@pytest.mark.slow
def test_a_forget_begun_while_a_push_sends_the_person_waits_for_it(tmp_path: Path):
    """The answer to their row is held back until the forget has its own lock, and so waits for the
    push's. The push ends well; then nothing of them is left, and a full pull brings no one back."""
    folder = made_folder(tmp_path / "run")
    people_file(tmp_path)
    sent, answers = threading.Event(), threading.Event()

    def hold(request: LoggedRequest) -> None:
        if request.method == "POST":
            sent.set()
            answers.wait()

    with small_sandbox() as sandbox, Zygote(folder, environment(sandbox)) as zygote:
        try:
            person = add_person(sandbox)
            zygote.start("pull", "-q")
            assert zygote.wait() == 0
            sandbox.on_request = hold
            push = zygote.start("push", "../people.csv", "-q")
            assert sent.wait(_PATIENCE_S)
            forget = zygote.start("forget", person, "-q")
            _wait_for_lock(folder / "state", "forget, push with%")
        finally:
            answers.set()
        assert zygote.wait(push) == 0
        assert zygote.wait(forget) == 0
        assert "1 person" in (folder / "out").read_text()
        zygote.start("pull", "--full", "-q")
        assert zygote.wait() == 0
        assert [change.payload["title"] for change in sandbox.applied] == ["Doctor"]
    for part in ("state", "data"):
        found = found_in(folder / part)
        assert not any(found[value] for value in SOUGHT), found


def _wait_for_lock(state: Path, like: str) -> None:
    """Until a process holds a lock of the outbox with such a name."""
    url, until_s = f"sqlite:///{state}/ledger.db", time.monotonic() + _PATIENCE_S
    held = select(func.count()).select_from(locks.holders).where(locks.holders.c.name.like(like))
    with closing(Database(url, durable=True, suffix=OUTBOX_SUFFIX)) as outbox:
        while time.monotonic() < until_s:
            with outbox.read() as connection:
                if connection.scalar(held):
                    return
    raise TimeoutError(like)
