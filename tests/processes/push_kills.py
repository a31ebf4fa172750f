"""A push that is killed again and again, and what has reached the API in the end."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from connector.sandbox import Faults, Sandbox, SandboxOptions
from tests.processes.file_operations import FileFault
from tests.processes.zygote import Zygote, signalled

FAULTS = Faults(
    drop_after=0.12, drop_before=0.06, error_500=0.04, error_500_after=0.04, truncate=0.04
)


@dataclass
class Killed:
    """applied: email → changes really made. statuses: email → the row's outcome in the last run.

    kills: pushes killed while they ran. exit_code: of the last, which ran to its end.
    """

    applied: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    exit_code: int = 0
    summary: dict[str, int] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    @property
    def doubled(self) -> list[str]:
        return [email for email, times in self.applied.items() if times > 1]


def push_under_fire(
    folder: Path, *, rows: int, kills: int, seed: int, keys_ttl_s: float | None = None
) -> Killed:
    """Push `rows` people from one file, killed `kills` times at random instants, then once more
    to its end. keys_ttl_s: the API forgets idempotency keys after this."""
    options = SandboxOptions(
        prospects=0, notes=0, tasks=0, meetings=0,
        keys_ttl_s=keys_ttl_s, latency_s=(0.01, 0.06), faults=FAULTS, seed=seed,
    )  # fmt: skip
    path = folder / "people.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["firstName", "lastName", "email"])
        writer.writerows([f"N{n}", "X", f"n{n}@example.org"] for n in range(rows))
    with Sandbox(options) as sandbox, Zygote(folder, environment(sandbox, keys_ttl_s)) as zygote:
        killed = _fire(zygote, sandbox, kills, random.Random(seed))
        killed.applied = Counter(
            change.payload["email"] for change in sandbox.applied if change.resource == "prospects"
        )
    return killed


@dataclass
class KillPoints:
    """Pushes killed before single file operations. operations: of a whole push. wrong: what each
    point that didn't recover in two runs, or not to the truth, left behind."""

    operations: int = 0
    tried: int = 0
    killed: int = 0
    wrong: list[str] = field(default_factory=list)


def push_killed_before(folder: Path, choose: Callable[[int], Iterable[int]]) -> KillPoints:
    """Push a few people with notes, killed before each of the chosen file operations, and again
    until it is done. choose: how many operations a push has → which of them (from 1)."""
    options = SandboxOptions(prospects=0, notes=0, tasks=0, meetings=0)
    found = KillPoints()
    with (
        Sandbox(options) as sandbox,
        Zygote(folder, environment(sandbox, None), watches_files=True) as zygote,
    ):
        if error := _push_at(zygote, sandbox, folder / "whole", FileFault()):
            found.wrong.append(error)
        found.operations = len(zygote.operations())
        for point in choose(found.operations):
            found.tried += 1
            place = folder / f"point-{point}"
            fault = FileFault(kill_before=point)
            if error := _push_at(zygote, sandbox, place, fault, found):
                found.wrong.append(f"before operation {point}: {error}")
    return found


_PEOPLE = 6


def _push_at(
    zygote: Zygote,
    sandbox: Sandbox,
    place: Path,
    fault: FileFault,
    found: KillPoints | None = None,
) -> str | None:
    """What is wrong after a push with `fault` and at most two more; None: the truth."""
    place.mkdir()
    domain = f"{place.name}.example.org"
    rows = [f"N{n},X,n{n}@{domain},Dr,Called {n}" for n in range(_PEOPLE)]
    (place / "people.csv").write_text(
        "\n".join(["firstName,lastName,email,title,note.body", *rows])
    )
    zygote.folder = place
    zygote.start("push", "people.csv", "--json", "-q", fault=fault)
    code = zygote.wait()
    if found is not None:
        found.killed += code == -signal.SIGKILL
    for _ in range(2):
        if code == 0:
            break
        zygote.start("push", "people.csv", "--json", "-q")
        code = zygote.wait()
    if code != 0:
        return f"exit {code}: {(place / 'err').read_text()[-500:]}{(place / 'out').read_text()}"
    own = [change for change in sandbox.applied if change.payload.get("email", "").endswith(domain)]
    ids = {change.id for change in own}
    notes = [change for change in sandbox.applied if change.payload.get("prospectId") in ids]
    if len(own) != _PEOPLE or len(ids) != _PEOPLE or len(notes) != _PEOPLE:
        return f"{len(own)} changes of {len(ids)} people, {len(notes)} notes"
    return _unlanded(place)


def _unlanded(place: Path) -> str | None:
    """What the published copy lacks of the last run."""
    summary = json.loads((place / "out").read_text().splitlines()[-1])
    if summary["rows"] != _PEOPLE or summary["failed"] or summary["rejected"]:
        return f"last run: {summary}"
    with duckdb.connect(str(place / "data" / "hiringcenter.duckdb"), read_only=True) as copy:
        landed = copy.execute(
            "SELECT count(*) FROM hiringcenter.hiringcenter._hc_push_results WHERE run_id = ?",
            [summary["run_id"]],
        ).fetchone()
    return None if landed == (_PEOPLE,) else f"{landed} results of the last run have landed"


def environment(sandbox: Sandbox, keys_ttl_s: float | None) -> Mapping[str, str]:
    environment = {
        "HIRINGCENTER_API_KEY": sandbox.api_key,
        "HIRINGCENTER_BASE_URL": sandbox.url,
        "HIRINGCENTER_RATE_LIMITS": "30000/60s",
        "HIRINGCENTER_WRITES__MAX_IN_FLIGHT": "8",
        "HIRINGCENTER_STATE_DIR": "state",
        "HIRINGCENTER_MARTS__ENABLED": "false",  # a kill leaves them like any other table
    }
    if keys_ttl_s is not None:
        environment["HIRINGCENTER_WRITES__KEY_MEMORY_S"] = str(keys_ttl_s)
    return environment


def _fire(zygote: Zygote, sandbox: Sandbox, kills: int, chance: random.Random) -> Killed:
    command = ("push", "people.csv", "--json", "-q")
    killed = Killed(kills=kill_again_and_again(zygote, sandbox, command, kills, chance))
    zygote.start(*command)
    killed.exit_code = zygote.wait()
    killed.summary = json.loads((zygote.folder / "out").read_text().splitlines()[-1])
    killed.messages = (zygote.folder / "err").read_text().splitlines()
    return killed


def kill_again_and_again(
    zygote: Zygote,
    sandbox: Sandbox,
    command: tuple[str, ...],
    kills: int,
    chance: random.Random,
    *,
    requests: int = 20,
    between: int = 1,
) -> int:
    """Run `command` up to `kills` times, killed at random instants, the first time between two of
    its first requests; how often it was killed while it ran. requests: it makes at least so many.
    between: up to so many come before each later kill.
    """
    some, before = chance.randrange(1, requests), len(sandbox.requests)
    signalled(
        zygote, sandbox, signal.SIGKILL, *command,
        when=lambda: len(sandbox.requests) > before + some,
    )  # fmt: skip
    killed = 1
    while killed < kills:
        target = len(sandbox.requests) + chance.randrange(between)
        pid = zygote.start(*command)
        if chance.random() < 0.8:  # else somewhere in start and plan
            _until(
                lambda target=target: len(sandbox.requests) > target or _ended(zygote),
                deadline_s=300,
            )
        time.sleep(chance.uniform(0, 0.25))
        os.kill(pid, signal.SIGKILL)
        if zygote.wait() != -signal.SIGKILL:
            break  # it was faster: everything is done
        killed += 1
    return killed


def _ended(zygote: Zygote) -> bool:
    out = zygote.folder / "out"
    return out.exists() and out.read_text().endswith("}\n")


def _until(holds: Callable[[], bool], *, deadline_s: float) -> None:
    end_s = time.monotonic() + deadline_s
    while not holds() and time.monotonic() < end_s:
        time.sleep(0.005)
