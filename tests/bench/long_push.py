"""10,000 updates among 120,000 people, with a copy of yesterday, by a push that lasts longer than
what it reads stays fresh; meanwhile, another account's plan of rows without names is applied.

What counts as fresh (`writes.fresh_s`) is five minutes instead of fifteen.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb

from connector.sandbox import Sandbox, SandboxOptions
from tests.bench import Row
from tests.processes.push_kills import environment
from tests.processes.zygote import ROOT

_PEOPLE, _UPDATED = 120_000, 10_000
_OTHERS, _OTHERS_UPDATED = 4_000, 1_000
_FRESH_S = 300.0
_LIMITS = "1200/60s"
_CONTACTS = {"email", "phone"}


def run() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="long-push-") as name, ExitStack() as stack:
        folder = Path(name)
        long, other = (
            _Account(stack.enter_context(Sandbox(_options(people, seed))), folder, title)
            for title, people, seed in (("long", _PEOPLE, 1), ("other", _OTHERS, 2))
        )
        wanted = long.write(_UPDATED, with_names=True)
        others_wanted = other.write(_OTHERS_UPDATED, with_names=False)
        for account in (long, other):
            account.run("pull", "prospects")
            account.make_copy_old()
        pushed = long.start("push", "long.csv")
        planned = other.run("plan", "other.csv", "--out", "other.hcplan")
        applied = other.run("apply", "other.hcplan")
        summary = _ended(pushed)
        return [
            *_long_rows(long, wanted, summary),
            _other_row(other, others_wanted, planned, applied),
        ]


def _options(people: int, seed: int) -> SandboxOptions:
    return SandboxOptions(prospects=people, notes=0, tasks=0, meetings=0, seed=seed)


class _Account:
    """One key, its API and its copy; accounts share a state directory."""

    def __init__(self, sandbox: Sandbox, folder: Path, name: str) -> None:
        sandbox.options.api_key = f"{name}-key"
        sandbox.options.account_id = f"acct_{name}"
        self.sandbox, self._folder, self._name = sandbox, folder, name
        self._copy = folder / f"{name}.duckdb"
        self._environment = {
            "HOME": str(folder), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT),
            **environment(sandbox, None),
            "HIRINGCENTER_RATE_LIMITS": _LIMITS,
            "HIRINGCENTER_WRITES__FRESH_S": str(_FRESH_S),
            "HIRINGCENTER_DUCKDB_PATH": str(self._copy),
        }  # fmt: skip

    def start(self, *command: str) -> subprocess.Popen[str]:
        self.sandbox.clear_log()
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *command, "--json", "-q"],
            cwd=self._folder, env=self._environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *command: str) -> dict[str, Any]:
        return _ended(self.start(*command))

    def write(self, many: int, *, with_names: bool) -> dict[str, str]:
        """A file with other titles for every so many people: id → title."""
        wanted: dict[str, str] = {}
        names = ("firstName", "lastName") if with_names else ()
        with (self._folder / f"{self._name}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow([*names, "email", "title"])
            for person in self._people():
                is_usable = all(person.get(name) for name in ("firstName", "lastName", "email"))
                if is_usable and len(wanted) < many:
                    title = f"Title {len(wanted)}"
                    writer.writerow([*(person[name] for name in names), person["email"], title])
                    wanted[person["id"]] = title
        return wanted

    def _people(self) -> list[dict[str, Any]]:
        store = self.sandbox.store
        with store.lock:
            table = store.table("prospects")
            return [table.record(serial) for serial in table.serials()]

    def make_copy_old(self) -> None:
        """As if it had been pulled yesterday."""
        self._copy.chmod(0o600)
        with duckdb.connect(str(self._copy)) as copy:
            copy.execute(
                "UPDATE hiringcenter._hc_freshness SET last_pull_at = last_pull_at - "
                "INTERVAL 1 DAY, last_complete_at = last_complete_at - INTERVAL 1 DAY"
            )

    def wrong(self, wanted: dict[str, str]) -> int:
        """How many people aren't as the file says, or were written more or less than once."""
        times = Counter(change.id for change in self.sandbox.applied)
        titles = {each["id"]: each.get("title") for each in self._people() if each["id"] in wanted}
        once = {id_ for id_ in wanted if times[id_] == 1 and titles[id_] == wanted[id_]}
        return len(wanted.keys() - once) + len(times.keys() - wanted.keys())


def _ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate()
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert process.returncode in (0, 3), found
    return found


def _asked(account: _Account) -> tuple[int, int, int]:
    """POSTs, scans, and GETs that aren't part of one."""
    requests = account.sandbox.requests
    gets = [each for each in requests if each.method == "GET" and each.path.endswith("/prospects")]
    pages = [each for each in gets if _CONTACTS.isdisjoint(name for name, _ in each.params)]
    firsts = [each for each in pages if not any("oken" in name for name, _ in each.params)]
    others = sum(each.method == "GET" for each in requests) - len(pages)
    return sum(each.method == "POST" for each in requests), len(firsts), others


def _long_rows(account: _Account, wanted: dict[str, str], summary: dict[str, Any]) -> Sequence[Row]:
    posts, scans, looks = _asked(account)
    most = int(summary["seconds"] // _FRESH_S) + 1
    wrong = account.wrong(wanted)
    return [
        Row(
            f"{_UPDATED:,} updates among {_PEOPLE:,} people, a copy of yesterday",
            f"{posts:,} POSTs, {scans} scans and {looks} looks in {summary['seconds']:.0f} s",
            f"{_UPDATED:,} POSTs, at most {most} scans (one in {_FRESH_S:.0f} s)",
            posts == _UPDATED and scans <= most and looks <= _UPDATED // 100,
        ),
        Row("its people as the file says, each written once", f"{wrong} aren't", "0", wrong == 0),
    ]


def _other_row(
    account: _Account, wanted: dict[str, str], planned: dict[str, Any], applied: dict[str, Any]
) -> Row:
    posts, scans, looks = _asked(account)
    wrong = account.wrong(wanted)
    reported = (planned["would_update"], applied["updated"])
    return Row(
        f"meanwhile, another account's plan of {_OTHERS_UPDATED:,} rows without names applied",
        f"{posts:,} POSTs, {scans} scans and {looks} looks; {reported[0]:,} planned, "
        f"{reported[1]:,} updated, {wrong} people wrong",
        "as planned, each once",
        not wrong and reported == (_OTHERS_UPDATED, _OTHERS_UPDATED),
    )
