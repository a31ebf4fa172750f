"""Whatever revision the server speaks, and however badly it answers: the same rows, or an error."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connector.sandbox import RESOURCES, Faults, Sandbox, SandboxOptions
from connector.settings import HttpSettings
from tests.sync.pull.conftest import Puller, settings_for

SIZES: dict[str, Any] = {"prospects": 450, "notes": 420, "tasks": 210, "meetings": 60}
# those that other tests don't pull from: see also tests/sync/source/test_source_scans.py
_REVISIONS: dict[str, dict[str, Any]] = {
    "next_token": {"envelope": "next_token"},
    "legacy": {"envelope": "legacy"},
    "bare": {"envelope": "bare"},
    "unbounded, no prospect tokens": {"prospects_paged": False, "over_limit": "unbounded"},
    "refuses big limits": {"over_limit": "refuse", "max_limits": dict.fromkeys(RESOURCES, 50)},
}


@pytest.fixture
def make_puller(tmp_path: Path) -> Iterator[Any]:
    running: list[Sandbox] = []

    def make(**options: Any) -> Puller:
        running.append(Sandbox(SandboxOptions(**{**SIZES, **options})).__enter__())
        return Puller(running[-1], settings_for(running[-1], tmp_path))

    yield make
    for sandbox in running:
        sandbox.__exit__(None, None, None)


@pytest.mark.slow
@pytest.mark.parametrize("revision", _REVISIONS)
def test_every_revision_lands_the_same_rows(make_puller: Any, revision: str):
    """Complete and equal; no parameter is sent that the API doesn't know."""
    puller = make_puller(**_REVISIONS[revision])
    puller.pull_ok()
    puller.assert_true()
    assert puller.sandbox.unknown_parameters == []


@pytest.mark.slow
@pytest.mark.parametrize("over_limit", ["refuse", "clamp"])
def test_prospects_without_tokens_are_complete_or_an_honest_failure(
    make_puller: Any, over_limit: str
):
    """At most 1000 at once of 1300: by slices, or reported as doubtful by naming totalCount."""
    puller = make_puller(
        prospects=1300,
        prospects_paged=False,
        over_limit=over_limit,
        max_limits={"prospects": 1000},
    )
    puller.lists = ("prospects",)
    report = puller.pull_ok()
    if report.exit_code == 0:
        puller.assert_true()
    else:
        assert "totalCount" in report.summary["resources"]["prospects"]["why_incomplete"]
        assert report.published


def test_tokens_that_expire_are_read_again(make_puller: Any):
    """Each list's first one, before it is used: pages may be read twice, no row is lost."""
    puller, asked = make_puller(), Counter[str]()

    def expire(request: Any) -> None:
        asked[request.path] += 1
        expired = asked[request.path] == 2
        puller.sandbox.options.token_ttl_s = -1.0 if expired else None

    puller.sandbox.on_request = expire
    puller.pull_ok()
    puller.assert_true()


@pytest.mark.slow
def test_faults_of_every_kind_change_nothing(make_puller: Any):
    """Three answers in ten are broken, one in ten is a bare 429; exit 0 and the same rows."""
    names = [name for name in _fault_names() if name not in ("bare_429", "stall", "redirect")]
    puller = make_puller(
        prospects=1300,
        max_limits=dict.fromkeys(RESOURCES, 50),
        faults=Faults(**dict.fromkeys(names, 0.3 / len(names)), bare_429=0.02, stall=0.01, seed=3),
    )
    puller.change(http=HttpSettings(request_timeout_s=2.0))
    puller.pull_ok()
    puller.sandbox.options.faults = Faults()
    puller.assert_true()


def _fault_names() -> list[str]:
    from connector.sandbox import FAULT_NAMES

    return [str(name) for name in FAULT_NAMES]


@pytest.mark.slow
def test_an_old_duckdb_reads_the_copy(puller: Puller, tmp_path: Path):
    """DuckDB 1.1, from the index, opens what DuckDB 2 has written."""
    target = tmp_path / "old"
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target),
         "duckdb==1.1.3"],
        capture_output=True, text=True,
    )  # fmt: skip
    if installed.returncode:
        pytest.skip("no package index, or no wheel of DuckDB 1.1 for this Python")
    puller.pulled()
    code = (
        "import duckdb, sys; assert duckdb.__version__ == '1.1.3'\n"
        "c = duckdb.connect(sys.argv[1], read_only=True)\n"
        "print(c.execute('SELECT count(*), count(labels) FROM hiringcenter.prospects').fetchone())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(puller.settings.duckdb_path)],
        env={"PYTHONPATH": str(target)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ended.stdout.startswith("(300, ")
