"""A push, or an apply, and its undo, killed again and again, and what is at the API in the end."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from connector.sandbox import Sandbox, SandboxOptions
from tests.processes.push_kills import FAULTS, environment, kill_again_and_again
from tests.processes.zygote import Zygote

PUSH = ("push", "people.csv")
APPLY = ("apply", "people.hcplan")
_FIELDS = ("firstName", "lastName", "email", "phone", "title", "company", "city", "labels")
_EDITED = "Edited"
_MOST_SHOWN = 5
_Fields = Mapping[str, Any]
_Landed = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Size:
    """How many people a file is to update and to create, how many of those it has updated others
    edit before that is undone. kills: at most half of them of the push, the rest of the undo.
    conflicts: how many of those it is to update others edit between plan and apply."""

    updated: int
    created: int
    edited: int
    kills: int
    conflicts: int = 0


@dataclass
class Trial:
    """What a file has changed under fire, and what taking it back has left.

    killed: runs that were killed while they ran, by command. requests: of these commands, by
    method. wrong: each difference from the truth, in words.
    """

    folder: Path
    size: Size
    seed: int
    killed: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    wrong: list[str] = field(default_factory=list)

    def run(self, command: tuple[str, ...], *, takes_back: bool = True) -> None:
        """Pull, change everything by `command`, let others edit, take it back, push once more."""
        options = SandboxOptions(prospects=0, notes=0, tasks=0, meetings=0, seed=self.seed)
        _write_file(self.folder, self.size)
        with (
            Sandbox(options) as sandbox,
            Zygote(self.folder, environment(sandbox, None)) as zygote,
        ):
            for number in range(self.size.updated):
                sandbox.store.create("prospects", _person(number))
            self._zygote, self._sandbox = zygote, sandbox
            self._chance = random.Random(self.seed)
            self._must_end("pull", 0)
            if command == APPLY:
                self._must_end("plan", 0, "people.csv", "--out", "people.hcplan")
            self._conflicts = self._edit(_people(sandbox), self.size.conflicts)
            before = _people(sandbox)
            runs = self._change_under_fire(command, before)
            if takes_back:
                edited = self._edit(before.keys() - self._conflicts, self.size.edited)
                self._take_back_under_fire(runs, before, edited)
            self._must_end("pull", 0)
            found = self._landed()
            self._check_changes(found, runs, before)
            if takes_back:
                self._check_listed(found, runs, before, edited)
            self._check_at_rest(command)

    # --- the steps ----------------------------------------------------------------------------

    def _change_under_fire(self, command: tuple[str, ...], before: Mapping[str, _Fields]) -> Runs:
        size, sandbox = self.size, self._sandbox
        rows = size.updated + size.created
        start = len(sandbox.applied)
        code, summary = self._under_fire(command, -(-size.kills // 2), requests=rows)
        wanted_code = 3 if self._conflicts else 0
        if code != wanted_code or summary.get("rows") != rows or summary.get("not_sent"):
            self.wrong.append(f"{command[0]} ended with {code}: {summary}")
        changes = sandbox.applied[start:]
        ids = {change.id for change in changes}
        times = Counter(change.id for change in changes)
        self._compare("changes made more than once", [id_ for id_ in times if times[id_] > 1], [])
        self._compare("people created", len(ids - before.keys()), size.created)
        now = _people(sandbox)
        self._compare("people", len(now), rows)
        for number, (id_, fields) in _numbered(now).items():
            changes_made = {} if id_ in self._conflicts else _changes(number)
            wanted = {**before.get(id_, _blank(number)), **changes_made}
            self._compare(f"row {number} at the server", fields, wanted)
        runs = Runs(self._runs_of(command[0]))
        runs.created = [id_ for id_ in now if id_ not in before]
        self.runs = len(runs.changing)
        return runs

    def _edit(self, people: Collection[str], many: int) -> set[str]:
        """Others edit so many of these, each in a field that the file changes: their ids."""
        edited = self._chance.sample(sorted(people), many)
        for id_ in edited:
            self._sandbox.store.update("prospects", id_, {"title": _EDITED})
        return set(edited)

    def _take_back_under_fire(
        self, runs: Runs, before: Mapping[str, _Fields], edited: Collection[str]
    ) -> None:
        for run_id in runs.changing:
            _, dry = self._end("undo", run_id, "--dry-run")
            runs.people[run_id] = int(dry.get("would_update", 0))
        updated = self.size.updated - len(self._conflicts)
        self._compare("people to put back", sum(runs.people.values()), updated)
        kills = self.size.kills - self.killed.total()
        people = sum(runs.people.values())
        start = len(self._sandbox.applied)
        for run_id in runs.changing:
            own = runs.people[run_id]
            share = min(kills, max(1, -(-kills * own // max(people, 1)))) if own > 1 else 0
            command = ("undo", run_id)
            killed = self.killed["undo"]
            code, summary = self._under_fire(command, share, requests=2 * own)
            kills -= self.killed["undo"] - killed
            people -= own
            if code not in (0, 3) or summary.get("not_sent"):
                self.wrong.append(f"undo of {run_id} ended with {code}: {summary}")
            runs.undone_by[run_id] = self._first_undo_of(run_id)
        times = Counter(change.id for change in self._sandbox.applied[start:])
        self._compare("people put back twice", [id_ for id_ in times if times[id_] > 1], [])
        self._compare("people put back", times.keys() - before.keys(), set())
        now = _people(self._sandbox)
        for id_, fields in before.items():
            wanted = {**fields, "title": _EDITED} if id_ in edited else fields
            self._compare(f"prospect {id_} put back", now.get(id_), wanted)
        numbered = _numbered(now)
        for number in range(self.size.updated, self.size.updated + self.size.created):
            wanted = {**_blank(number), **_changes(number)}
            self._compare(f"created row {number}", numbered[number][1], wanted)

    def _landed(self) -> _Landed:
        """(run, status, prospect id) of every result that has landed."""
        copy_path = self.folder / "data" / "hiringcenter.duckdb"
        with duckdb.connect(str(copy_path), read_only=True) as copy:
            return copy.execute(
                "SELECT run_id, status, prospect_id FROM hiringcenter.hiringcenter._hc_push_results"
            ).fetchall()

    def _check_changes(self, found: _Landed, runs: Runs, before: Mapping[str, _Fields]) -> None:
        """Every change has its outcome, once in all runs."""
        changing, updated = set(runs.changing), before.keys() - self._conflicts
        done = Counter((s, id_) for run, s, id_ in found if run in changing and s in _DONE)
        once = [("updated", id_) for id_ in updated] + [("created", id_) for id_ in runs.created]
        self._compare("changes with an outcome", done, Counter(once))
        refused = {id_ for run, s, id_ in found if run in changing and s in _LEFT}
        self._compare("people in conflict", refused, self._conflicts)

    def _check_listed(
        self, found: _Landed, runs: Runs, before: Mapping[str, _Fields], edited: set[str]
    ) -> None:
        """Of each run, the undo that ended lists whom it left; no one was put back twice."""
        left = [(id_, "failed") for id_ in edited] + [(id_, "rejected") for id_ in runs.created]
        undos = set(self._runs_of("undo"))
        ever = {(id_, s) for run, s, id_ in found if run in undos and s in _LEFT}
        self._compare("people whom any undo has listed", ever, set(left))
        ended = set(runs.undone_by.values())
        listed = Counter((id_, s) for run, s, id_ in found if run in ended and s in _LEFT)
        self._compare("people whom the undos that ended have listed", listed, Counter(left))
        back = Counter(id_ for run, s, id_ in found if run in undos and s == "updated")
        put_back = before.keys() - self._conflicts - edited
        self._compare("people put back, as reported", back, Counter(put_back))

    def _check_at_rest(self, command: tuple[str, ...]) -> None:
        """The same again sends nothing, but a push what an apply has left in conflict."""
        asked, applied = len(self._sandbox.requests), len(self._sandbox.applied)
        if command == APPLY:
            self._must_end(APPLY[0], 3 if self._conflicts else 0, *APPLY[1:])
            self._compare("requests of a plan applied again", len(self._sandbox.requests), asked)
        self._must_end(PUSH[0], 0, *PUSH[1:])
        posts = [each for each in self._sandbox.requests[asked:] if each.method == "POST"]
        self._compare("POSTs of the same file pushed again", len(posts), len(self._conflicts))
        changed = {each.id for each in self._sandbox.applied[applied:]}
        self._compare("people changed by the same file again", changed, self._conflicts)

    # --- running commands ---------------------------------------------------------------------

    def _under_fire(
        self, command: tuple[str, ...], kills: int, *, requests: int
    ) -> tuple[int, dict[str, Any]]:
        """Kill it so often, with faults of the API; then run it to its end: code and summary.
        requests: it makes at most about so many, and at least half of them: a person left alone
        is only looked at."""
        sandbox = self._sandbox
        sandbox.options.faults, sandbox.options.latency_s = FAULTS, (0.01, 0.04)
        asked = len(sandbox.requests)
        if kills:
            between = max(1, requests // kills)
            killed = kill_again_and_again(
                self._zygote, sandbox, (*command, "--json", "-q"), kills, self._chance,
                requests=max(2, min(8, requests // 2)), between=between,
            )  # fmt: skip
            self.killed[command[0]] += killed
        code, summary = self._end(*command)
        self.requests.update(each.method for each in sandbox.requests[asked:])
        sandbox.options.faults, sandbox.options.latency_s = type(FAULTS)(), 0.0
        return code, summary

    def _end(self, *command: str) -> tuple[int, dict[str, Any]]:
        """Exit code and summary of a run that isn't killed."""
        self._zygote.start(*command, "--json", "-q")
        code = self._zygote.wait()
        lines = (self._zygote.folder / "out").read_text().splitlines()
        summary: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        if "error" in summary:
            self.wrong.append(f"{' '.join(command)}: {summary['error']}")
        return code, summary

    def _must_end(self, name: str, code: int, *arguments: str) -> None:
        self._compare(f"exit code of {name}", self._end(name, *arguments)[0], code)

    def _first_undo_of(self, run_id: str) -> str | None:
        """The undo that ended first; one may be killed after it has ended, and before it exits."""
        _, summary = self._end("runs", "--last", "1000")
        undos = [each for each in summary["runs"] if each.get("undoes") == run_id]
        ended = [each["run_id"] for each in undos if each["status"] == "ok"]
        return ended[-1] if ended else None

    def _runs_of(self, kind: str) -> list[str]:
        """Newest first."""
        _, summary = self._end("runs", "--last", "1000")
        return [each["run_id"] for each in summary["runs"] if each["kind"] == kind]

    def _compare(self, what: str, found: Any, wanted: Any) -> None:
        if found == wanted:
            return
        if isinstance(found, Counter):
            found, wanted = found - wanted, wanted - found
        elif isinstance(found, set) or isinstance(wanted, set):
            found, wanted = set(found) - set(wanted), set(wanted) - set(found)
        elif isinstance(found, dict) and isinstance(wanted, dict):
            names = [name for name in found if found[name] != wanted.get(name)]
            found, wanted = ({name: each.get(name) for name in names} for each in (found, wanted))
        self.wrong.append(f"{what}: {_shortened(found)}, not {_shortened(wanted)}")


@dataclass
class Runs:
    """changing: runs that changed people, newest first. people: how many each has updated.
    created: ids. undone_by: the first undo of each that ended."""

    changing: list[str]
    people: dict[str, int] = field(default_factory=dict)
    created: list[str] = field(default_factory=list)
    undone_by: dict[str, str | None] = field(default_factory=dict)


_DONE = ("updated", "created")
_LEFT = ("failed", "rejected")


# --- people and the file ------------------------------------------------------------------------


def _blank(number: int) -> dict[str, Any]:
    """A person whom the file creates, before its values."""
    who = {"firstName": f"N{number}", "lastName": "X", "email": f"n{number}@example.org"}
    return {**dict.fromkeys(_FIELDS), "labels": [], **who}


def _person(number: int) -> dict[str, Any]:
    own = {"title": "Dr", "city": f"Town {number}", "labels": ["kept", "mine"]}
    # null where the API always shows one: of other fields, a null of the copy isn't put back
    company = {"company": f"Old {number}"} if number % 8 != 1 else {}
    return {**_blank(number), **own, **company}


def _changes(number: int) -> dict[str, Any]:
    """The title of all; other fields of some."""
    found: dict[str, Any] = {"title": "Prof"}
    if number % 2:
        found["company"] = "New"
    if number % 3 == 0:
        found["labels"] = ["new"]
    if number % 4 == 0:
        found["city"] = "Berlin"
    if number % 5 == 0:
        found["phone"] = f"+1202{5550000 + number:07d}"
    return found


def _write_file(folder: Path, size: Size) -> None:
    names = ("title", "company", "labels", "city", "phone")
    with (folder / "people.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["firstName", "lastName", "email", *names])
        for number in range(size.updated + size.created):
            cells = {**_changes(number), "labels": ";".join(_changes(number).get("labels", ()))}
            who = [f"N{number}", "X", f"n{number}@example.org"]
            writer.writerow([*who, *(cells.get(name, "") for name in names)])


def _people(sandbox: Sandbox) -> dict[str, dict[str, Any]]:
    found = sandbox.store.all("prospects")
    return {each["id"]: {name: each.get(name) for name in _FIELDS} for each in found}


def _numbered(people: Mapping[str, _Fields]) -> dict[int, tuple[str, _Fields]]:
    """number in the file → id and fields."""
    return {int(each["firstName"][1:]): (id_, each) for id_, each in people.items()}


def _shortened(found: Any) -> str:
    if isinstance(found, Iterable) and not isinstance(found, str | Mapping):
        every = list(found)
        more = f" and {len(every) - _MOST_SHOWN} more" if len(every) > _MOST_SHOWN else ""
        return f"{every[:_MOST_SHOWN]}{more}"
    return str(found)
