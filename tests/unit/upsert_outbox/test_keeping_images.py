"""What a push keeps of people before it changes them: in the transaction that marks the write."""

from __future__ import annotations

import orjson
import pytest
import sqlalchemy as sa

from connector.upsert.outbox.outbox import Outbox
from connector.upsert.outbox.outbox_schema import results
from tests.pushes.fake_api import Crash, FakeApi
from tests.pushes.rig import SCOPE, Rig
from tests.unit.upsert_outbox.test_merging_pushes import ADA, hire, pull, push


def test_an_update_keeps_what_it_replaces(rig: Rig, api: FakeApi):
    """As the look-up shows it, not as the copy had it; fields that stay aren't part of it."""
    hire(api, "p1")
    pull(rig, api)
    push(rig, ADA)
    api.clock.advance(1_000)
    api.edit("p1", company="Babbage & Co")
    push(rig, {**ADA, "title": "Broker", "company": "New"})
    image = rig.images(2)["p1"]
    assert image.before == {"title": "Agent", "company": "Babbage & Co"}
    assert (image.contact, image.read_ms) == (("email", "ada@x.org"), None)


def test_a_fresh_copy_is_what_was_there_before(rig: Rig, api: FakeApi):
    """No look-up is needed to know it."""
    hire(api, "p1")
    pull(rig, api)
    push(rig, {**ADA, "title": "Broker"})
    assert api.gets == 0
    image = rig.images(1)["p1"]
    assert (image.before, image.read_ms) == ({"title": "Agent"}, None)


def test_the_before_image_of_a_person_met_is_what_the_match_showed(rig: Rig, api: FakeApi):
    """A creation that meets a person reads them before it changes them."""
    hire(api, "p1", title="Boss")
    push(rig, ADA)
    assert rig.images(1)["p1"].before == {"title": "Boss"}


def test_no_before_image_is_kept_of_people_created_or_unchanged(rig: Rig, api: FakeApi):
    """There is nothing to put back."""
    hire(api, "p1")
    push(rig, ADA, {"email": "new@x.org"})
    assert rig.images(1) == {}


def test_what_the_answer_shows_is_what_was_left(rig: Rig, api: FakeApi):
    """HiringCenter drops the phone: an undo finds that it is as the run has left it."""
    hire(api, "p1")
    api.drops_phones = True
    push(rig, {**ADA, "phone": "+14155550109"})
    image, cell = rig.images(1)["p1"], Outbox(rig.database, SCOPE, rig.steady).hasher.cell
    assert (image.before, image.left) == (
        {"phone": "+14155550101"}, {"phone": cell("phone", None)}
    )  # fmt: skip


@pytest.mark.parametrize("died", ["crash before", "crash after"])
def test_a_kill_leaves_no_write_without_its_image(rig: Rig, api: FakeApi, died: str):
    """Whether the write has arrived or not; the push that resumes keeps the image of its run."""
    hire(api, "p1")
    api.fate = lambda n: died if n == 1 else "ok"
    changed = {**ADA, "title": "Broker"}
    with pytest.raises(Crash):
        push(rig, changed)
    assert rig.images(1)["p1"].before == {"title": "Agent"}
    push(rig, changed)
    assert api.prospects["p1"]["title"] == "Broker"
    assert rig.images(1)["p1"].before == {"title": "Agent"}
    assert rig.images(2) == {}


def test_two_rows_of_one_person_keep_what_was_there_before_both(rig: Rig, api: FakeApi):
    """What the first has changed isn't an image for the second."""
    hire(api, "p1")
    push(rig, {**ADA, "title": "Broker"}, {**ADA, "title": "Boss", "company": "New"})
    assert api.prospects["p1"]["title"] == "Boss"
    image, cell = rig.images(1)["p1"], Outbox(rig.database, SCOPE, rig.steady).hasher.cell
    assert image.before == {"title": "Agent", "company": "Acme"}
    assert image.left == {"title": cell("title", "Boss"), "company": cell("company", "New")}


def test_a_result_names_what_was_changed_and_what_was_kept(rig: Rig, api: FakeApi):
    """Not the names and the contact that go out with it; of a person created, all of it."""
    hire(api, "q1")
    push(rig, ADA)
    api.edit("q1", company="Recruiter's")
    push(rig, {**ADA, "title": "Broker"}, {"email": "new@x.org"})
    with rig.database.read() as connection:
        query = sa.select(results.c.row_number, results.c.changed_fields, results.c.kept_fields)
        found = connection.execute(query.where(results.c.run_id == "run-0002")).all()
    fields = {row[0]: [orjson.loads(each) if each else [] for each in row[1:]] for row in found}
    assert fields == {2: [["title"], ["company"]], 3: [["firstName", "lastName", "email"], []]}
