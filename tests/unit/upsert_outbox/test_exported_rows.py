"""Rows of a pulled table, or of an export of one, before they are planned."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from connector.upsert.outbox.evidence import Pulled, PulledProspect
from connector.upsert.outbox.exported_rows import Exported, ExportedRows
from connector.upsert.outbox.matching import Hasher
from connector.upsert.rows.cells import NOT_COMPUTED, InputRow
from connector.upsert.rows.column_mapping import ColumnMapping, ColumnPlan, match_columns
from connector.upsert.rows.row_checks import Reject, Validator, ValidRow

HASHER = Hasher(b"s" * 32)
AT_MS = 1_767_312_000_123  # 2026-01-02T00:00:00.123Z
ADA = {
    "firstName": "Ada", "lastName": "King", "email": "ada@x.org", "phone": "+14155550101",
    "title": "Agent", "labels": ["Hot; cold", "B"], "company": None,
}  # fmt: skip
ROW = {
    "id": "p1", "first_name": "Ada", "last_name": "King", "email": "ada@x.org",
    "phone": "+14155550101", "title": "Agent", "labels": '["Hot; cold", "B"]', "company": "",
    "current_stage": "New", "created_at": "2025-01-01", "updated_at": "2026-01-02T00:00:00.123Z",
    "_hc_deleted_at": "", "_dlt_id": "x", "company__v_bigint": "",
}  # fmt: skip


class Copy(Pulled):
    def __init__(self, *people: PulledProspect) -> None:
        self._people = {each.id: each for each in people}

    def by_id(
        self, ids: Collection[str], *, with_fields: bool = False
    ) -> dict[str, PulledProspect]:
        return {id_: self._people[id_] for id_ in ids if id_ in self._people}


def copy_of(id_: str = "p1", deleted_at_ms: int | None = None, **fields: Any) -> Copy:
    return Copy(PulledProspect(id_, AT_MS, deleted_at_ms, {**ADA, **fields}))


def plan_of(values: dict[str, Any], **options: Any) -> ColumnPlan:
    return match_columns(list(values), **options)


def checked(values: dict[str, Any], copy: Pulled | None = None, **options: Any) -> Any:
    plan = plan_of(values)
    validator = Validator(plan, **options)
    rows = ExportedRows([InputRow(2, values)], plan, validator, copy or copy_of(), HASHER)
    (found,) = [rows.check(row) for row in rows]
    return found


def exported(values: dict[str, Any], copy: Pulled | None = None, **options: Any) -> Exported:
    row = checked(values, copy, **options)
    assert isinstance(row, ValidRow), row
    assert row.prospect_id == "p1"
    assert row.exported is not None
    return Exported.from_bytes(row.exported)


def camel(name: str) -> str:
    return re.sub(r"(?<=[a-z])_([a-z])", lambda found: found[1].upper(), name)


@pytest.mark.parametrize("rename", [str, camel, str.upper])
def test_a_pulled_table_is_recognized_by_its_columns(rename: Any):
    """In any spelling of headers; what a push can't set is left out and named once, and none of it
    is an unknown column."""
    plan = plan_of({rename(name): value for name, value in ROW.items()})
    assert set(plan.fields.values()) == set(ADA)
    assert plan.pulled is not None
    left_out = [rename(each) for each in ("current_stage", "created_at", "_dlt_id")]
    assert plan.not_taken == (*left_out, rename("company__v_bigint"))
    (note,) = plan.notes
    assert ", ".join(plan.not_taken) in note


def test_a_mapping_that_ignores_the_id_makes_it_a_file_like_any_other():
    """Its rows are found by contact then; a column that no field explains is refused again."""
    mapping = ColumnMapping(ignore=("ID", "current_stage", "created_at", "updated_at"))
    values = {name: value for name, value in ROW.items() if name != "company__v_bigint"}
    assert plan_of(values, mapping=mapping).pulled is None
    assert plan_of({"first_name": "", "last_name": "", "email": ""}).pulled is None


def test_hidden_columns_are_never_values():
    """Hashed or excluded; their names are those of the settings, by column or API name."""
    plan = plan_of(ROW, hidden=("email", "firstName"))
    assert plan.hidden == ("first_name", "email")
    assert {"email", "firstName"}.isdisjoint(plan.fields.values())
    assert "hide their values: first_name, email" in plan.notes[0]


def test_an_untouched_row_says_what_it_was_exported_as():
    """Whom it is about, its version, and that nothing differs."""
    row = checked(ROW)
    assert {name: row.payload.get(name) for name in ADA} == ADA
    assert exported(ROW) == Exported(AT_MS)
    assert (row.email, row.phone) == ("ada@x.org", "+14155550101")


@pytest.mark.parametrize(
    "cell",
    [
        "2026-01-02 00:00:00.123+00", "2026-01-02 00:00:00.123000+00:00",
        "2026-01-02T01:00:00.123+01:00", "2026-01-02 00:00:00.123", "2026-01-02 00:00:00.123 UTC",
        AT_MS, str(AT_MS), float(AT_MS), AT_MS * 1_000_000,
        datetime(2026, 1, 2, 0, 0, 0, 123_000), datetime(2026, 1, 2, 0, 0, 0, 123_000, UTC),
        datetime(2026, 1, 2, 2, 0, 0, 123_000, timezone(timedelta(hours=2))),
    ],
    ids=repr,
)  # fmt: skip
def test_a_version_is_read_in_each_form_that_exports_write(cell: Any):
    """DuckDB's, pandas', those of spreadsheets and of JSON; a time without an offset is UTC."""
    assert exported({**ROW, "updated_at": cell}) == Exported(AT_MS)


@pytest.mark.parametrize("cell", ["2026-01-01T00:00:00Z", "1/2/2026 0:00", "", None, "soon", True])
def test_nothing_differs_from_a_version_that_the_copy_no_longer_has(cell: Any):
    """Nor from one that can't be read: what it was isn't known."""
    changed = {**ROW, "title": "changed"}
    assert exported(changed).was
    assert not exported({**changed, "updated_at": cell}).was


def test_a_changed_cell_differs_from_the_version():
    """By its fingerprint; case of an email and the spelling of a phone aren't a change."""
    changed = {**ROW, "title": "Broker", "email": "ADA@x.org", "phone": "(415) 555-0101"}
    assert exported(changed).was == {"title": HASHER.cell("title", "Agent")}
    assert exported({**ROW, "labels": "B; Hot"}).was == {
        "labels": HASHER.cell("labels", ADA["labels"])
    }
    assert exported({**ROW, "company": "Acme"}).was == {"company": HASHER.cell("company", None)}


ODD = {
    "firstName": "", "lastName": None, "email": "not an email", "phone": "555", "title": "#N/A",
    "labels": ["x" * 300], "company": "a\r\nb\x07",
}  # fmt: skip


def test_what_hiringcenter_has_is_never_refused():
    """A check of ours that it doesn't pass isn't a reason to reject the row, unless it is
    changed."""
    row = {
        **ROW, "first_name": "", "last_name": None, "email": "not an email", "phone": "555",
        "title": "#N/A", "labels": ["x" * 300], "company": "a\nb\x07",
    }  # fmt: skip
    assert exported(row, copy_of(**ODD)) == Exported(AT_MS)
    assert "#REF!" in checked({**row, "title": "#REF!"}, copy_of(**ODD)).reason


@pytest.mark.parametrize("cell", ["=1+1", NOT_COMPUTED, "#NAME?"])
def test_text_that_became_a_formula_is_unchanged(cell: str):
    """Programs that write workbooks make a formula of text that begins with `=`."""
    assert exported({**ROW, "title": cell}, copy_of(title="=1+1")) == Exported(AT_MS)
    assert isinstance(checked({**ROW, "title": NOT_COMPUTED}), Reject)


@pytest.mark.parametrize("labels", ['["Hot; cold", "B"]', ["Hot; cold", "B"], '["B","Hot; cold"]'])
def test_lists_survive_every_format(labels: Any):
    """As JSON, as a list, in any order; and one label with a comma isn't a reason to warn."""
    assert exported({**ROW, "labels": labels}) == Exported(AT_MS)
    assert not checked({**ROW, "labels": '["a, b"]'}, copy_of(labels=["a, b"])).warnings


def test_tombstones_and_people_without_contact_are_left_alone():
    """With the reason, whatever their row says; a deletion that either side knows of counts."""
    for copy, values in (
        (copy_of(deleted_at_ms=AT_MS), ROW),
        (copy_of(), {**ROW, "_hc_deleted_at": "2026-01-03", "title": "Broker"}),
    ):
        assert "deleted in HiringCenter" in (exported(values, copy).reason or "")
    contactless = {"email": None, "phone": " "}
    values = {**ROW, "email": "new@x.org", "phone": ""}
    assert "neither email nor phone" in (exported(values, copy_of(**contactless)).reason or "")


def test_a_contact_that_pulls_hide_is_not_missing():
    """Excluded or hashed, it is there: the person can be looked up by their id."""
    copy = Copy(PulledProspect("p1", AT_MS, None, {"firstName": "Ada", "title": "Agent"}))
    values = {name: value for name, value in ROW.items() if name not in ("email", "phone")}
    assert exported({**values, "title": "Broker"}, copy).reason is None


def test_an_id_that_was_not_pulled_is_rejected():
    """It may be another account's: no one else is changed in its place, whatever the contact."""
    row = checked(ROW, copy_of("p2"))
    assert isinstance(row, Reject)
    assert row.column == "id"
    assert "prospect p1 isn't in the last pull" in row.reason


def test_a_row_without_an_id_is_checked_like_any_other():
    """A person whom the user added to the export: a contact is needed."""
    row = checked({**ROW, "id": " "})
    assert (row.prospect_id, row.exported) == (None, None)
    assert "both empty" in checked({**ROW, "id": "", "email": "", "phone": ""}).reason


def test_an_empty_cell_clears_only_on_request():
    """And only where something was exported."""
    assert "title" not in checked({**ROW, "title": ""}).payload
    cleared = checked({**ROW, "title": "", "company": ""}, clear_empty=True)
    assert {"title", "company"} & {n for n, v in cleared.payload.items() if v is None} == {"title"}
