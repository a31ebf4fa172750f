"""Which fields of a batch go to `_hc_more`, and which stay columns."""

from __future__ import annotations

import json
from typing import Any

from connector.source.row_maker import RowMaker
from pipelines.destination.load_packages import Form, forms
from pipelines.destination.loader import Batch


def _batch(*records: dict[str, Any]) -> Batch:
    maker = RowMaker("prospects", {})
    unique = maker.unique([{"id": str(at), **record} for at, record in enumerate(records)])
    return Batch("prospects", maker.table(unique), maker.columns)


def _forms(destination: str, batch: Batch, known: dict[str, Any]) -> list[Form]:
    return list(forms(destination, [batch], {"prospects": known}))


def _values(form: Form, at: int = 0) -> dict[str, Any]:
    """What a row holds, in its columns and in `_hc_more`."""
    (batch,) = form.batches
    row = batch.rows.slice(at, 1).to_pylist()[0]
    return {name: value for name, value in row.items() if value is not None}


def test_a_batch_without_such_fields_is_left_as_it_is():
    """The very rows, not a copy: nearly every batch is one of these."""
    batch = _batch({"custom": 1, "xmin": 2})
    assert _forms("duckdb", batch, batch.columns)[0].batches == [batch]


def test_more_fields_than_a_table_may_have_columns():
    """Known columns stay, the first of the new ones fill the table, the others move."""
    known = {f"known{n}": {"name": f"known{n}", "data_type": "bigint"} for n in range(1000)}
    batch = _batch({f"known{n}": n for n in range(0, 1000, 50)}, {f"new{n}": n for n in range(900)})
    form = _forms("postgres", batch, known)[0]
    columns = set(form.batches[0].columns) | set(known)
    assert 1570 < len(columns) < 1590  # the rest is for columns of ours
    row = _values(form, at=1)
    more = json.loads(row["_hc_more"])
    assert {name: (row | more)[name] for name in (f"new{n}" for n in range(900))} == {
        f"new{n}": n for n in range(900)
    }
    assert "new0" in row
    assert sum(form.warnings["prospects"].values()) == len(more)


def test_values_in_more_are_those_of_the_api():
    """Under the API's names; JSON as JSON, a time in milliseconds."""
    fields = {"xmin": [1, {"a": "b"}], "dueAt": 1_700_000_000_001, "newText": "é", "firstName": "A"}
    last = _forms("postgres", _batch(fields), {})[-1]
    row = _values(last)
    assert json.loads(row.pop("_hc_more")) == {
        name: value for name, value in fields.items() if name != "firstName"
    }
    assert row["first_name"] == "A"


def test_each_form_that_was_refused_is_followed_by_a_narrower_one():
    """New fields go first, then all that the contract doesn't name; ids and the rest never."""
    known = {"old": {"name": "old", "data_type": "text"}}
    found = _forms("postgres", _batch({"ctid": 1, "old": "o", "fresh": "f"}), known)
    assert [sorted(json.loads(_values(form)["_hc_more"])) for form in found] == [
        ["ctid"], ["ctid", "fresh"], ["ctid", "fresh", "old"],
    ]  # fmt: skip


def test_what_was_refused_once_is_remembered_in_the_columns_schema():
    """Also by a run that has never seen the refusal; what moved for one load alone isn't."""
    batch = _batch({"old": "o", "fresh": "f"})
    known: dict[str, Any] = {"old": {"name": "old", "data_type": "text"}}
    second, third = _forms("postgres", batch, known)[1:]
    for form in (second, third):
        columns = known | dict(form.batches[0].columns)
        assert columns["_hc_more"].get("x-hc-moved") == (["fresh"] if form is second else None)
    known |= {"_hc_more": second.batches[0].columns["_hc_more"]}
    assert json.loads(_values(_forms("postgres", batch, known)[0])["_hc_more"]) == {"fresh": "f"}


def test_tables_of_our_own_are_never_narrowed():
    columns = {"run_id": {"name": "run_id", "data_type": "text", "nullable": False}}
    batch = Batch("_hc_runs", [{"run_id": "1"}], columns, key="run_id")
    assert [form.batches for form in forms("postgres", [batch], {"_hc_runs": {}})] == [[batch]]
