"""Rows wider or longer than ordinary ones: they take more memory, and still land."""

from __future__ import annotations

from typing import Any

from tests.sync.pull.conftest import Puller


def _widen(puller: Puller, resource: str, **fields: Any) -> None:
    store = puller.sandbox.store
    for record in store.all(resource):
        store.put(resource, {**record, **fields})


def test_hundreds_of_fields_of_their_own(puller: Puller):
    """DuckDB needs a block for each column: more memory than a pull gives it at first."""
    puller.lists = ("prospects",)
    fields = {f"customField{number}": f"value {number} " * 3 for number in range(400)}
    _widen(puller, "prospects", **fields)
    puller.pull_ok()
    puller.assert_true()
    puller.pull_ok()
    assert set(puller.counts("rows_written").values()) == {0}


def test_notes_as_long_as_mails(puller: Puller):
    puller.lists = ("notes",)
    _widen(puller, "notes", body="<p>Dear Sir or Madam</p>" * 4000)
    puller.pull_ok()
    puller.assert_true()
