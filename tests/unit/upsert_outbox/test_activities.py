"""Notes, tasks and meetings of rows: for whom, and how often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from connector.api.client import WriteAnswer
from connector.errors import Refused
from tests.fake_clock import FakeClock
from tests.pushes.fake_api import Crash, FakeApi
from tests.pushes.rig import Rig

ROW = {"email": "ada@example.org", "note": {"body": "hello"}}


@pytest.mark.parametrize("on_match", ["existing", "conflict"])
@pytest.mark.parametrize("is_known", [True, False])
def test_create_only_adds_nothing_to_existing_people(
    rig: Rig, api: FakeApi, on_match: str, is_known: bool
):
    """Whether they are known from a receipt or only to the API, in both revisions of its answer."""
    api.on_match = on_match
    if is_known:
        rig.push([{"email": ROW["email"]}], source="other.csv")
    else:
        api.post("prospects", b'{"email": "ada@example.org"}', idempotency_key="theirs")
    row = {**ROW, "update": False, "title": "Dr"}
    for _ in range(2):
        pushed = rig.push([row], mode="create-only")
        assert pushed.statuses == {2: "unchanged"}
        assert "exists already" in (pushed.messages[2] or "")
    assert api.notes == {}


def test_create_only_finishes_what_it_began(rig: Rig, api: FakeApi):
    """Killed between the prospect and its note: the next push adds the note, and then no more."""
    row = {**ROW, "update": False}
    api.fate = lambda n: "crash before" if n == 1 else "ok"
    with pytest.raises(Crash):
        rig.push([row], mode="create-only")
    for _ in range(2):
        rig.push([row], mode="create-only")
        assert len(api.notes) == 1
    rig.push([{**row, "note": {"body": "one more"}}], mode="create-only", source="other.csv")
    assert len(api.notes) == 1


def test_force_creates_an_activity_again(rig: Rig, api: FakeApi):
    """Once more for each push with --force; not once for each row that asks for it."""
    rig.push([ROW])
    assert rig.push([ROW]).statuses == {2: "unchanged"}
    assert len(api.notes) == 1
    rig.push([ROW, ROW], force=True)
    assert len(api.notes) == 2
    assert rig.push([ROW]).statuses == {2: "unchanged"}


class StrictApi(FakeApi):
    """Refuses the text of every note."""

    is_strict = True

    def _apply(self, resource: str, payload: dict[str, Any], key: str) -> WriteAnswer | Refused:
        if resource == "notes" and self.is_strict:
            field = "body" if "body" in payload else "note"
            reason = f"{field}: is offensive" if field == "body" else "body: is required"
            return Refused(status=400, url_path="/notes", reason=reason)
        return super()._apply(resource, payload, key)


def test_a_refused_value_is_reported_with_the_apis_first_answer(tmp_path: Path):
    """It costs one more try under the field's older name, whose answer says less; and nothing is
    learnt from it."""
    api = StrictApi(FakeClock())
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=api.clock)
    for tries in (3, 2):  # the first with the person
        pushed = rig.push([ROW])
        assert "body: is offensive" in (pushed.messages[2] or "")
        assert "is required" not in (pushed.messages[2] or "")
        assert len(api.applied) == 1
        assert api.posts == tries
        api.posts = 0
    rig.close()


def test_ids_that_are_numbers_are_the_same_ids(rig: Rig, api: FakeApi):
    """A note whose answer was lost is found among the notes of prospect 1, though the API's id is
    an integer; it isn't posted again."""
    api.numbers_ids, api.keys_ttl_s, rig.key_memory_s = True, 60.0, 60.0
    api.fate = lambda n: "crash after" if n == 1 else "ok"
    with pytest.raises(Crash):
        rig.push([ROW])
    api.clock.advance(3600)
    pushed = rig.push([ROW])
    assert pushed.statuses == {2: "unchanged"}
    assert len(api.notes) == 1
    (note,) = api.notes.values()
    assert note["prospectId"] == 1
    assert rig.push([{**ROW, "title": "Dr"}]).statuses == {2: "updated"}


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_note_that_was_refused_is_not_there_for_rows_that_ask_for_the_same(
    tmp_path: Path, is_alone: bool
):
    """Not with --force either: no row says that it is unchanged, and the next push creates it."""
    api = StrictApi(FakeClock())
    api.post("prospects", b'{"email": "ada@example.org"}', idempotency_key="theirs")
    row = {"email": ROW["email"], "body": "hello"} if is_alone else ROW
    how: dict[str, Any] = {"to": "notes"} if is_alone else {}
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=api.clock)
    pushed = rig.push([row, row], force=True, **how)
    assert "unchanged" not in pushed.statuses.values()
    assert all("offensive" in (each or "") for each in pushed.messages.values())
    api.is_strict = False
    rig.push([row, row], **how)
    assert len(api.notes) == 1
    rig.close()
