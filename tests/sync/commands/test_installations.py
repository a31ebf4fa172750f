"""Two installations (users, machines, state directories) and one path of the copy."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest

from connector.sandbox import Sandbox
from tests.sync.commands.conftest import Run

COPY = Path("data/hiringcenter.duckdb")


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Be the installation of this name from here on."""
    return lambda name: monkeypatch.setenv("HIRINGCENTER_STATE_DIR", str(tmp_path / name))


def test_a_copy_that_another_installation_keeps_is_left_alone(run: Run, sandbox: Sandbox, use):
    """Refused before the first request, naming the way out; taken over by hand, the other one is
    refused in its turn."""
    use("one")
    assert run("pull", "notes").code == 0
    published, asked = COPY.stat().st_ino, len(sandbox.requests)
    use("two")
    refused = run("pull", "notes", "--json")
    assert (refused.code, refused.summary["error"]["type"]) == (2, "CopyOfAnother")
    assert "pull --take-over" in refused.err
    assert (COPY.stat().st_ino, len(sandbox.requests)) == (published, asked)
    assert run("pull", "notes", "--take-over").code == 0
    assert run("pull", "notes").code == 0, "it is this installation's now"
    use("one")
    assert run("pull", "notes").code == 2


def test_an_old_copy_is_taken_over_with_a_warning(run: Run, sandbox: Sandbox, use):
    """The other installation hasn't published for more than a day; its rows are kept."""
    use("one")
    assert run("pull", "prospects").code == 0
    COPY.chmod(0o644)
    with duckdb.connect(str(COPY)) as connection:
        (note,) = connection.execute(
            "SELECT comment FROM duckdb_tables() WHERE table_name = '_hc_runs'"
        ).fetchone()
        old = re.sub(r"\d{13}", lambda found: str(int(found[0]) - 25 * 3_600_000), note)
        connection.execute(f"COMMENT ON TABLE hiringcenter.hiringcenter._hc_runs IS '{old}'")
    use("two")
    ended = run("pull", "notes")
    assert ended.code == 0
    assert "publish.taken_over" in ended.err
    with duckdb.connect(str(COPY), read_only=True) as connection:
        found = connection.execute("SELECT count(*) FROM hiringcenter.hiringcenter.prospects")
        assert found.fetchone() == (60,)


def test_results_of_a_push_wait_while_the_copy_is_anothers(run: Run, sandbox: Sandbox, use):
    """The push itself is done, and accounted for in its ledger."""
    use("one")
    assert run("pull", "notes").code == 0
    use("two")
    Path("people.csv").write_text("First Name,Last Name,Email\nAda,Byron,ada@example.com\n")
    ended = run("push", "people.csv")
    assert (ended.code, "results wait" in ended.out) == (0, True)
    assert "1 created" in run("runs").out


def test_a_push_without_its_state_is_refused_where_rows_were_sent_before(
    run: Run, sandbox: Sandbox, use, monkeypatch: pytest.MonkeyPatch
):
    """The state directory was deleted or left behind; every row and note would be sent again. The
    destination knows; the ways out are the shared ledger, then --new-ledger, which looks first."""
    use("one")
    Path("people.csv").write_text("First Name,Last Name,Email\nAda,Byron,ada@example.com\n")
    assert run("pull", "prospects").code == 0
    assert run("push", "people.csv").code == 0
    use("two")
    asked = len(sandbox.requests)
    refused = run("push", "people.csv", "--json")
    assert (refused.code, refused.summary["error"]["type"]) == (2, "OutboxLost")
    assert refused.err.index("HIRINGCENTER_LEDGER_URL") < refused.err.index("--new-ledger")
    assert len(sandbox.requests) == asked
    pushed = run("push", "people.csv", "--new-ledger", "--json").summary
    assert (pushed["unchanged"], pushed["created"], pushed["updated"]) == (1, 0, 0)
