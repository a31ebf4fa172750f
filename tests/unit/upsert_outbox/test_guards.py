"""Guarded writes: what a plan or an undo sends only while a person is as it requires."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import orjson
import pytest

from connector.upsert.outbox.merge import MergeRules
from connector.upsert.outbox.outbox import PROSPECTS, Outbox, Write
from connector.upsert.row_in_flight import Guard
from tests.pushes.fake_api import Crash, FakeApi
from tests.pushes.rig import SCOPE, Rig
from tests.unit.upsert_outbox.test_merging_pushes import ADA, hire, push


def cells(rig: Rig, values: Mapping[str, Any]) -> dict[str, bytes]:
    hasher = Outbox(rig.database, SCOPE, rig.steady).hasher
    return {name: hasher.cell(name, value) for name, value in values.items()}


def planned(
    rig: Rig,
    before: Mapping[str, Any],
    *,
    number: int = 2,
    id_: str | None = "p1",
    unknown: Collection[str] = (),
    undoes: str | None = None,
    **says: Any,
) -> Write:
    """A write that changes fields which are as `before`, or of which that isn't `unknown`."""
    body = {**{name: ADA[name] for name in ("firstName", "lastName", "email")}, **says}
    if undoes is None:
        body["update"] = True
    guard = Guard({**cells(rig, before), **dict.fromkeys(unknown)}, undoes)
    return Write(
        "", "people.csv", number, 0, PROSPECTS, 100 + number, None, None, None, b"c" * 16,
        orjson.dumps(body), row_values=b"{}", prospect_id=id_, guard=guard.to_bytes(),
    )  # fmt: skip


def test_a_planned_change_is_sent_where_the_person_is_as_planned(rig: Rig, api: FakeApi):
    """The planned fields and no other, though the row says more; its source settles them."""
    hire(api, "p1", company="Other")
    sent = rig.send(planned(rig, {"title": "Agent"}, title="Broker", company="Acme"))
    assert sent.statuses == {2: "updated"}
    assert api.applied[-1].payload == {
        "firstName": "Ada", "lastName": "King", "email": "ada@x.org", "title": "Broker",
        "update": True,
    }  # fmt: skip
    api.edit("p1", title="Boss")
    assert push(rig, {"email": "ada@x.org", "title": "Broker", "lastName": "King"}).statuses == {
        2: "unchanged"
    }


def test_a_person_who_changed_in_a_planned_field_is_a_conflict(rig: Rig, api: FakeApi):
    """The whole row stays unsent; the reason names the fields, and no value."""
    hire(api, "p1")
    api.edit("p1", title="Boss")
    write = planned(rig, {"title": "Agent", "company": "Acme"}, title="Broker", company="New")
    sent = rig.send(write)
    assert (sent.statuses, api.posts) == ({2: "failed"}, 0)
    message = sent.messages[2] or ""
    assert message.startswith("conflict: title of prospect p1 changed")
    assert not any(value in message for value in ("Boss", "Broker", "Agent", "Acme"))


def test_a_change_of_another_or_unknown_field_isnt_a_conflict(rig: Rig, api: FakeApi):
    """Only planned fields count; what wasn't known when it was planned can't have changed."""
    hire(api, "p1")
    api.edit("p1", company="Elsewhere", phone="+14155550177")
    write = planned(rig, {"title": "Agent"}, unknown=["city"], title="Broker", city="Rome")
    assert rig.send(write).statuses == {2: "updated"}
    assert (api.prospects["p1"]["title"], api.prospects["p1"]["city"]) == ("Broker", "Rome")


def test_a_change_that_was_already_made_is_neither_sent_nor_a_conflict(rig: Rig, api: FakeApi):
    """They have the planned value: nothing is left to do, and nothing would be overwritten."""
    hire(api, "p1", title="Broker")
    sent = rig.send(planned(rig, {"title": "Agent"}, title="Broker"))
    assert (sent.statuses, api.posts) == ({2: "unchanged"}, 0)


def test_a_person_deleted_since_the_plan_is_a_conflict(rig: Rig, api: FakeApi):
    """They aren't created again."""
    sent = rig.send(planned(rig, {"title": "Agent"}, title="Broker"))
    assert (sent.statuses, api.posts) == ({2: "failed"}, 0)
    assert (sent.messages[2] or "").startswith("conflict: prospect p1 was deleted")


@pytest.mark.parametrize("on_match", ["existing", "conflict"])
def test_a_person_who_appeared_since_the_plan_is_a_conflict(rig: Rig, api: FakeApi, on_match: str):
    """A planned creation that meets a person leaves them as they are."""
    api.on_match = on_match
    hire(api, "p1")
    sent = rig.send(planned(rig, {}, id_=None, unknown=["title"], title="Broker"))
    assert (sent.statuses, api.applied) == ({2: "failed"}, [])
    assert (sent.messages[2] or "").startswith("conflict: the plan was to create")
    assert "p1" in (sent.messages[2] or "")


def test_two_planned_rows_of_one_new_person_are_created_and_updated(rig: Rig, api: FakeApi):
    """Whom the first row creates, the second has not appeared to."""
    first = planned(rig, {}, id_=None, unknown=["title"], title="Broker")
    second = planned(rig, {}, id_=None, number=3, unknown=["city"], city="Rome")
    sent = rig.send(first, second._replace(person=first.person))
    assert sent.statuses == {2: "created", 3: "updated"}
    (person,) = api.prospects.values()
    assert (person["title"], person["city"]) == ("Broker", "Rome")


def test_a_kill_after_a_guarded_write_was_sent_applies_it_once(rig: Rig, api: FakeApi):
    """The next run settles it with its key; nothing is compared again."""
    hire(api, "p1")
    api.fate = lambda n: "crash after" if n == 0 else "ok"
    with pytest.raises(Crash):
        rig.send(planned(rig, {"title": "Agent"}, title="Broker"))
    assert push(rig, {**ADA, "title": "Broker"}).recovered == 1
    assert len(api.applied) == 1


def test_an_undo_puts_back_what_is_as_the_run_left_it(rig: Rig, api: FakeApi):
    """The rest is left alone and named; the row has failed, since not all of it is back."""
    hire(api, "p1", title="Broker", company="New")
    api.edit("p1", company="Recruiter's")
    write = planned(
        rig, {"title": "Broker", "company": "New"}, undoes="run-x", title=None, company="Acme"
    )
    sent = rig.send(write)
    assert sent.statuses == {2: "failed"}
    assert (sent.messages[2] or "").startswith("conflict: company of prospect p1 changed")
    assert "run-x" in (sent.messages[2] or "")
    assert (api.prospects["p1"]["title"], api.prospects["p1"]["company"]) == (None, "Recruiter's")


def test_an_undo_leaves_what_its_source_has_settled(rig: Rig, api: FakeApi):
    """The same file pushed again keeps what was put back, and sends nothing."""
    hire(api, "p1")
    changed = {**ADA, "title": "Broker"}
    push(rig, changed)
    sent = rig.send(planned(rig, {"title": "Broker"}, undoes="run-0001", title="Agent"))
    assert (sent.statuses, api.prospects["p1"]["title"]) == ({2: "updated"}, "Agent")
    posts = api.posts
    assert push(rig, changed).statuses == {2: "unchanged"}
    assert (api.posts, api.prospects["p1"]["title"]) == (posts, "Agent")


def test_an_undo_of_edited_fields_alone_sends_nothing(rig: Rig, api: FakeApi):
    """Nor does one of a person who was deleted; what is as it was before isn't sent again."""
    hire(api, "p1", title="Boss")
    edited = rig.send(planned(rig, {"title": "Broker"}, undoes="run-x", title="Agent"))
    assert (edited.statuses, api.posts) == ({2: "failed"}, 0)
    restored = rig.send(planned(rig, {"title": "Broker"}, undoes="run-x", title="Boss"))
    assert (restored.statuses, api.posts) == ({2: "unchanged"}, 0)
    api.prospects.clear()
    deleted = rig.send(planned(rig, {"title": "Broker"}, undoes="run-x", title="Agent"))
    assert (deleted.statuses, api.posts) == ({2: "failed"}, 0)
    assert (deleted.messages[2] or "").startswith("conflict: prospect p1 was deleted")


def test_what_a_guard_requires_is_read_back_from_the_ledger():
    """Fields with and without a fingerprint, and the run that is undone."""
    guard = Guard({"title": b"\x01\xff", "city": None}, "run-x")
    assert Guard.from_bytes(guard.to_bytes()) == guard


def test_a_forced_plan_is_guarded_too(rig: Rig, api: FakeApi):
    """`--force` sends what is unchanged; it isn't a way around a conflict."""
    hire(api, "p1", title="Boss")
    write = planned(rig, {"title": "Agent"}, title="Broker")
    sent = rig.send(write, rules=MergeRules(force=True))
    assert (sent.statuses, api.posts) == ({2: "failed"}, 0)
