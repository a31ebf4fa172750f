"""Pulls that are killed, at random instants or before a file operation: for tests and the bench."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import duckdb

from connector.sandbox import RESOURCES, Sandbox, SandboxOptions
from tests.processes.damage import DAMAGES, remove_what_was_put_aside, state_files
from tests.processes.file_operations import FileFault
from tests.processes.zygote import Zygote, signalled
from tests.sync.pull.truth import all_duckdb, assert_equal_to_truth, assert_histories_fit

CHUNK_PAGES = 12
SIZES = {"prospects": 300, "notes": 250, "tasks": 199, "meetings": 150}
PAGES = 15 + 13 + 10 + 8  # of 20 rows
PROBES = 3  # full last pages of lists that carry no count


@contextmanager
def slow_sandbox() -> Iterator[Sandbox]:
    """Pages of 20 rows, 30 ms each: a pull takes a second or two."""
    options = SandboxOptions(
        **SIZES, latency_s=0.03, max_limits=dict.fromkeys(RESOURCES, 20), token_kind="keyset"
    )
    with Sandbox(options) as running:
        yield running


@contextmanager
def small_sandbox() -> Iterator[Sandbox]:
    """Answers at once; a first pull makes some 1,500 file operations, a later one 600."""
    options = SandboxOptions(
        prospects=50, notes=30, tasks=20, meetings=10, max_limits=dict.fromkeys(RESOURCES, 20)
    )
    with Sandbox(options) as running:
        yield running


@contextmanager
def pulling_from(
    sandbox: Sandbox, folder: Path, *, watches_files: bool = False
) -> Iterator[Zygote]:
    """Starts pulls into `folder`, their state in it too."""
    environment = {
        "HIRINGCENTER_API_KEY": sandbox.api_key,
        "HIRINGCENTER_BASE_URL": sandbox.url,
        "HIRINGCENTER_RATE_LIMITS": "1000000/60s",
        "HIRINGCENTER_PULL__CHUNK_PAGES": str(CHUNK_PAGES),
        "HIRINGCENTER_MARTS__ENABLED": "false",  # a kill leaves them like any other table
    }
    environment["HIRINGCENTER_STATE_DIR"] = "state"
    with Zygote(folder, environment, watches_files=watches_files) as running:
        yield running


def kill_until_done(
    zygote: Zygote, sandbox: Sandbox, *, kills: int, seed: int, within_s: float = 2.5
) -> int:
    """Kill pulls at random instants, then let one finish and compare; returns how many were
    killed: the first two certainly, the others unless they have ended by then."""
    chance, cut = random.Random(seed), 0
    for _ in range(2):
        last = len(sandbox.requests) + chance.randrange(1, PAGES // 3)
        signalled(
            zygote, sandbox, signal.SIGKILL, "pull", "--full", "-q",
            when=lambda last=last: len(sandbox.requests) >= last,
        )  # fmt: skip
        cut += 1
    for _ in range(kills - cut):
        pid = zygote.start("pull", "--full", "-q")
        time.sleep(chance.uniform(0.0, within_s))
        os.kill(pid, signal.SIGKILL)
        cut += zygote.wait() == -signal.SIGKILL
    zygote.start("pull", "--full", "-q")
    assert zygote.wait() == 0, (zygote.folder / "err").read_text()
    assert_landed(zygote, sandbox)
    return cut


def assert_landed(zygote: Zygote, sandbox: Sandbox) -> None:
    """The published file equals the API, and its histories fit its rows."""
    path = zygote.folder / "data" / "hiringcenter.duckdb"
    assert_equal_to_truth(sandbox, all_duckdb(path))
    assert_histories_fit(path)


# an error that names the damaged file and what to do
NAMED = re.compile(
    r"(?s)/state/\S+.* (Move it away|Remove it)|has the path of the published.*Move it away"
    r"|is a folder.* [Mm]ove (that|the) folder away"
)


class KillPoints:
    """Kills pulls before chosen file operations, and checks what follows.

    A point costs a second: a later pull goes into the folder of the point before, with rows
    created, changed and deleted in between. zygote: one that watches files.
    """

    def __init__(self, zygote: Zygote, sandbox: Sandbox) -> None:
        self._zygote, self._sandbox = zygote, sandbox
        self._changes = 0
        self.cut = 0
        """Pulls that were really killed."""
        self.second_runs = 0
        """Recoveries that took two."""
        zygote.folder /= "pulls"
        self._fresh_folder()
        self._run(FileFault())
        self.first = len(zygote.operations())
        """File operations of a first pull, about: threads make it vary."""
        self._expected_files = self._files()

    @cached_property
    def later(self) -> int:
        """Those of a pull that finds changes, about; more than half of a first pull's."""
        self._change()
        self._run(FileFault())
        return len(self._zygote.operations())

    def try_first(self, number: int) -> str | None:
        """Kill a first pull before operation `number`; what is wrong afterwards, or None."""
        self._fresh_folder()
        return self._try(number)

    def try_later(self, number: int) -> str | None:
        """Kill a pull that finds changes before operation `number`."""
        self._change()
        return self._try(number)

    def try_series(self, faults: Iterable[FileFault], *, fresh: bool = False) -> str | None:
        """Kill pulls one after the other, each in what the one before has left, and what came
        of it. fresh: the first one is a first pull."""
        if fresh:
            self._fresh_folder()
        killed = []
        for fault in faults:
            self._change()
            if self._run(fault) not in (0, -signal.SIGKILL):  # 0: it had no such operation
                return f"exit {self._code} after {killed}: {(self.folder / 'err').read_text()}"
            killed.append(self._last_operation())
        return self._recover(f"series of {killed}")

    def try_damage(self, chance: random.Random, file: str = "") -> str | None:
        """Damage a file whose path contains `file`, after a pull or a killed one, somehow."""
        self._change()
        self._run(FileFault(kill_before=chance.choice([0, chance.randrange(1, self.first // 2)])))
        found = [each for each in state_files(self.folder) if file in str(each)]
        damaged = chance.choice(sorted(found))
        how = chance.choice(sorted(DAMAGES))
        DAMAGES[how](damaged, chance)
        return self._recover(f"{how} {damaged.relative_to(self.folder)}")

    def try_failing(self, number: int, code: int) -> str | None:
        """What is wrong where every operation from `number` on fails with errno `code`, or None:
        that pull ends in words and with its counts, and the next ones recover."""
        self._change()
        self._zygote.start("pull", "--full", "--json", fault=FileFault(0, number, code))
        ended = self._zygote.wait()
        said = (self.folder / "out").read_text()
        if ended not in (0, 1, 3) or not said.endswith("}\n"):
            return f"failing from {number}: exit {ended}, {said}"
        if "bug in the connector" in said:
            return f"failing from {number}: {said}"
        return self._recover(f"failing from {number}")

    def try_without_locks(self, folder: str) -> str | None:
        """What is wrong after a pull that can't lock files in `folder`, or None."""
        self._change()
        self._run(FileFault(without_locks=folder))
        kept = list(self.folder.rglob("*.kept-*"))
        return f"kept {kept}" if kept else self._wrong(f"no locks in {folder}")

    @property
    def folder(self) -> Path:
        return self._zygote.folder

    def _try(self, number: int) -> str | None:
        code = self._run(FileFault(kill_before=number))
        operation = f"{number}: {self._last_operation()}"
        return self._recover(operation) if code == -signal.SIGKILL else self._wrong(operation)

    def _last_operation(self) -> str:
        """The changes of the pull before, which a killed one may not have seen."""
        if self._code == -signal.SIGKILL:
            self.cut += 1
        return (self._zygote.operations() or ["none"])[-1]

    def _recover(self, what: str) -> str | None:
        """At most two runs; a folder in which something is wrong isn't used again.

        The first may end a scan that a killed pull has begun before the last changes were made.
        """
        if self._run(FileFault()) != 0 or not self._has_landed():
            self.second_runs += 1
            self._run(FileFault())
        return self._wrong(what)

    def _has_landed(self) -> bool:
        try:
            assert_landed(self._zygote, self._sandbox)
        except (AssertionError, OSError, duckdb.Error):
            return False
        return True

    def _wrong(self, what: str) -> str | None:
        remove_what_was_put_aside(self.folder)
        try:
            if NAMED.search(error := (self.folder / "err").read_text()) and self._code:
                self._begin_again()  # the way out is named
                return None
            assert self._code == 0, error
            assert_landed(self._zygote, self._sandbox)
            stray = self._files() - self._expected_files
            assert not stray, f"left behind: {stray}"
        except (AssertionError, OSError, duckdb.Error) as error:
            self._begin_again()
            return f"{what}: {error}"
        return None

    def _begin_again(self) -> None:
        self._fresh_folder()
        self._run(FileFault())

    def _run(self, fault: FileFault) -> int:
        self._zygote.start("pull", "--full", "-q", fault=fault)
        self._code = self._zygote.wait()
        return self._code

    def _change(self) -> None:
        """A row of each list created, changed and deleted."""
        self._changes += 1
        for resource in RESOURCES:
            store = self._sandbox.store
            ids = [record["id"] for record in store.all(resource)]
            field = {"prospects": "firstName", "notes": "text"}.get(resource, "title")
            store.create(resource, {field: f"New {self._changes}"})
            store.update(resource, ids[1], {field: f"Changed {self._changes}"})
            store.delete(resource, ids[0])

    def _fresh_folder(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def _files(self) -> set[str]:
        """Files of the folder, with numbers made equal."""
        found = (path for path in self.folder.rglob("*") if not path.is_dir())
        return {re.sub(r"\d+", "0", str(path.relative_to(self.folder))) for path in found}
