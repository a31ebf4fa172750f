"""Files that version 0.1 read wrongly, pushed whole: what reaches the API, and what is reported."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import duckdb

from connector.sandbox import Sandbox
from connector.settings import load
from tests.sync.commands.conftest import Run
from tests.sync.push.conftest import results_waiting

INPUTS = Path(__file__).parents[2] / "inputs"


def pushed(run: Run, path: Path, tmp_path: Path, *options: str) -> Any:
    rejects = ("--rejects", str(tmp_path / "rejects.csv"))
    with results_waiting(load()):
        return run("push", str(path), *rejects, "--json", *options)


def people(sandbox: Sandbox) -> dict[str, dict[str, Any]]:
    return {str(each.get("email")): each for each in sandbox.store.all("prospects")}


def test_a_guessed_encoding_that_decides_names_is_shown_and_never_sent(
    run: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Refused with the cells as each guess reads them, on the terminal alone; a dry run reads it;
    with --encoding the names arrive."""
    refused = pushed(run, INPUTS / "mac-roman.csv", tmp_path)
    assert refused.code == 2
    assert refused.summary["error"]["type"] == "EncodingGuessed"
    assert "mac_roman reads 'Åsa', 'Lindström', 'Günther'" in refused.err
    assert "Lindstr" not in refused.out
    assert sandbox.applied == []

    dry = pushed(run, INPUTS / "mac-roman.csv", tmp_path, "--dry-run")
    assert (dry.code, dry.summary["rows"]) == (0, 2)
    assert "mac_roman reads 'Åsa'" in dry.err

    named = pushed(run, INPUTS / "mac-roman.csv", tmp_path, "--encoding", "mac_roman")
    assert (named.code, named.summary["created"]) == (0, 2)
    found = people(sandbox)["asa@example.com"]
    assert (found["firstName"], found["lastName"]) == ("Åsa", "Lindström")


def test_merged_cells_and_lines_above_a_header_arrive_whole(
    run: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Each row of a merged cell has its value, with --clear-empty too."""
    assert pushed(run, INPUTS / "merged-company.xlsx", tmp_path, "--clear-empty").code == 0
    found = people(sandbox)
    emails = [f"{name}@example.com" for name in ("mara", "tom", "ida")]
    assert [found[email]["company"] for email in emails] == ["Globex"] * 3
    above = pushed(run, INPUTS / "lines-above-the-header.csv", tmp_path, "--skip-rows", "3")
    assert (above.code, above.summary["rows"]) == (0, 1)


def test_a_key_that_a_line_leaves_out_clears_nothing(
    run: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    """With --clear-empty: absent isn't empty."""
    assert pushed(run, INPUTS / "not-mentioned-1.jsonl", tmp_path).code == 0
    second = pushed(run, INPUTS / "not-mentioned-2.jsonl", tmp_path, "--clear-empty")
    assert second.code == 0
    mara = people(sandbox)["mara@example.com"]
    assert (mara["company"], mara["title"]) == ("Globex", "Manager")


def test_a_row_that_cannot_be_read_is_quoted_in_the_rejects_file_alone(
    run: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    """No name, note or phone of it in the output, the ledger or the results."""
    path = tmp_path / "people.csv"
    path.write_text(
        "First Name,Last Name,Email\nAnn,Secretly,ann@example.com,5559871234\n"
        '"Bob" Hidden,x,bob@example.com\nCy,Fine,cy@example.com\n'
    )
    ended = run("push", str(path), "--rejects", str(tmp_path / "rejects.csv"), "--json")
    assert (ended.code, ended.summary["rejected"], ended.summary["created"]) == (3, 2, 1)
    copy = tmp_path / "data" / "hiringcenter.duckdb"
    with duckdb.connect(str(copy), read_only=True) as connection:
        results = connection.execute(
            "SELECT * FROM hiringcenter.hiringcenter._hc_push_results"
        ).fetchall()
    assert len(results) == 3
    written = {file for file in tmp_path.rglob("*") if file.is_file()}
    written -= {path, tmp_path / "rejects.csv"}
    reported = (ended.out + ended.err + str(results)).encode()
    reported += b"".join(file.read_bytes() for file in written)
    for word in (b"Secretly", b"5559871234", b"Hidden"):
        assert word not in reported
    assert b"Secretly" in (tmp_path / "rejects.csv").read_bytes()
    assert b"Hidden" in (tmp_path / "rejects.csv").read_bytes()


def test_personal_data_in_place_of_a_header_is_not_printed(
    run: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    """The line and the cell's number are enough to find it."""
    path = tmp_path / "people.csv.gz"
    path.write_bytes(gzip.compress(b"Ann,Secretly,ann@example.com\nBob,Lee,bob@example.com\n"))
    ended = pushed(run, path, tmp_path)
    assert ended.code == 2
    assert "line 1: cell 3 is an email address" in ended.err
    assert "Ann" not in ended.err + ended.out
