"""Tables and states that an earlier version has left."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from connector.source.row_maker import MALFORMED_COLUMNS
from connector.source.scans import ScanKind, read_state
from pipelines.destination.destination import Destination
from pipelines.destination.loader import Batch
from pipelines.push.push_input import PushRequest
from pipelines.push.push_run import push
from tests.sync.pull.conftest import Puller

OLD, NEW = "_hc_odd_records", "_hc_malformed_records"


def found(puller: Puller, sql: str) -> list[tuple[Any, ...]]:
    """Rows of the destination itself."""
    if puller.postgres_url is None:
        with Destination(puller.settings) as destination:
            return destination.query(sql)
    engine = create_engine(puller.postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(sql))]
    finally:
        engine.dispose()


def contents(puller: Puller, table: str) -> list[str]:
    """What the table's rows hold."""
    return [row[0] for row in found(puller, f"SELECT content FROM hiringcenter.{table} ORDER BY 1")]


def test_the_table_of_malformed_records_gets_its_new_name_and_keeps_its_rows(any_puller: Puller):
    """For the next pull; who reads the old name in a server's database still can."""
    old = [{"id": "1", "resource": "notes", "content": '"of before"'}]
    with Destination(any_puller.settings) as destination:
        destination.load([Batch(OLD, old, MALFORMED_COLUMNS)])
    any_puller.sandbox.store.put("notes", {"body": "no id", "createdAt": 1})
    for _ in range(2):
        any_puller.pull_ok("notes")
    new = contents(any_puller, NEW)
    assert [content[:11] for content in new] == ['"of before"', '{"body": "n']
    if any_puller.postgres_url is not None:
        assert contents(any_puller, OLD) == new


def test_push_results_of_version_0_1_get_the_new_columns(any_puller: Puller, tmp_path: Path):
    """The table as it was, with its rows, and a push whose rows say more."""
    names = ("run_id", "row_number", "status", "prospect_id", "message", "pushed_at")
    types = ("text", "bigint", "text", "text", "text", "timestamp")
    columns = {
        name: {"name": name, "data_type": kind, "nullable": name not in names[:2]}
        | ({"primary_key": True} if name in names[:2] else {})
        for name, kind in zip(names, types, strict=True)
    }
    old = dict(zip(names, ("run-0", 2, "created", "p0", "hello", datetime.now(UTC)), strict=True))
    with Destination(any_puller.settings) as destination:
        destination.load([Batch("_hc_push_results", [old], columns, key=names[:2])])
    path = tmp_path / "people.csv"
    path.write_text("firstName,lastName,email\nAda,L,ada@example.org\nBob,B,nothing\n")
    new_ledger = PushRequest(file=str(path), new_ledger=True)  # of `run-0` nothing is known here
    assert push(any_puller.settings, new_ledger).summary["created"] == 1
    sql = (
        "SELECT status, message, record_kind, record_id = prospect_id, changed_fields, kept_fields "
        "FROM hiringcenter._hc_push_results ORDER BY run_id = 'run-0' DESC, row_number"
    )
    before, created, rejected = found(any_puller, sql)
    assert before == ("created", "hello", None, None, None, None)
    assert (created[0], *created[2:4], created[5]) == ("created", "prospects", True, None)
    assert (rejected[0], *rejected[2:]) == ("rejected", "prospects", None, None, None)


@pytest.mark.parametrize("ended", [False, True])
def test_a_state_of_an_earlier_version_is_understood(ended: bool):
    """Watermarks, and where a scan resumes; the rows that it has seen are known by id."""
    plan = {"resource": "notes", "kind": "full", "reason": "", "since_ms": None, "order": None,
            "params": {}, "max_pages": None, "look_max": 0}  # fmt: skip
    seen = {"pages": 3, "rows": 60, "odd": 1, "restarts": 0, "last_total": None, "grown": 0,
            "times": {"newest": {}, "first": {}, "last": {}, "unordered": []}}  # fmt: skip
    place = {"plan": plan, "started_ms": 5, "page_size": 20, "next": {"pageToken": "60"},
             "ended": ended, "seen": seen}  # fmt: skip
    scan: dict[str, Any] = {"plan": plan, "started_ms": 5, "place": place, "seen": 60,
                            "ended": {"complete": True, "why": ""} if ended else None}  # fmt: skip
    mark = {"facts": {"newest_ms": {"createdAt": 7}, "pages": 3}, "scan": scan}
    facts, left = read_state("notes", {"mark": mark})
    assert facts.newest_ms == {"createdAt": 7}
    assert left is not None
    assert (left.plan.kind, left.ids, left.pages, left.is_at_end) == (ScanKind.FULL, 60, 3, ended)
    assert (left.outcome is not None) is ended
