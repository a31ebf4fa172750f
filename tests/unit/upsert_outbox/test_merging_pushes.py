"""Pushes that merge: what changed in the input is sent, what changed in HiringCenter is kept."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import sqlalchemy as sa

from connector.upsert.outbox.evidence import Pulled, PulledProspect
from connector.upsert.outbox.matching import same_email, same_phone
from connector.upsert.outbox.merge import MergeRules
from connector.upsert.outbox.outbox_schema import entries, entry_contacts, receipts, sources
from tests.pushes.fake_api import Crash, FakeApi
from tests.pushes.rig import CopyByContact, Pushed, Rig

RESTORE = MergeRules(restore=True)
ADA = {
    "firstName": "Ada", "lastName": "King", "email": "ada@x.org", "phone": "+14155550101",
    "title": "Agent", "company": "Acme",
}  # fmt: skip


class CopiedPeople(CopyByContact):
    """What a complete pull has brought. pushed: whom pushes have written, by their results."""

    pushed = frozenset[str]()

    def __init__(self, api: FakeApi) -> None:
        self.complete_ms = api.now_ms()
        self._people = {
            id_: PulledProspect(id_, item.get("updatedAt"), None, dict(item))
            for id_, item in api.prospects.items()
        }

    def by_id(
        self, ids: Collection[str], *, with_fields: bool = False
    ) -> dict[str, PulledProspect]:
        return {id_: self._people[id_] for id_ in ids if id_ in self._people}

    def by_email(self, emails: Collection[str]) -> dict[str, frozenset[str]]:
        return {each: self._having("email", each, same_email) for each in emails}

    def by_phone(self, phones: Collection[str]) -> dict[str, frozenset[str]]:
        return {each: self._having("phone", each, same_phone) for each in phones}

    def pushed_before(self, ids: Collection[str]) -> frozenset[str]:
        return self.pushed & set(ids)

    def _having(self, name: str, value: str, same: Any) -> frozenset[str]:
        people = self._people.values()
        return frozenset(each.id for each in people if same(value, each.fields.get(name)))


def hire(api: FakeApi, id_: str, **fields: Any) -> None:
    """A person whom HiringCenter has, as recruiters have entered them."""
    times = {"createdAt": api.now_ms(), "updatedAt": api.now_ms()}
    api.prospects[id_] = {"id": id_, **ADA, **fields, **times}


def pull(rig: Rig, api: FakeApi) -> None:
    api.clock.advance(1)
    rig.pulled = CopiedPeople(api)
    api.clock.advance(1)


def push(rig: Rig, *rows: dict[str, Any], **options: Any) -> Pushed:
    rig.api.clock.advance(1)  # type: ignore[attr-defined]
    return rig.push([dict(row) for row in rows], **options)


def test_a_file_that_is_as_hiringcenter_has_it_sends_nothing(rig: Rig, api: FakeApi):
    """Not one request; and a recruiter's correction stands from then on, and is reported."""
    hire(api, "p1")
    pull(rig, api)
    assert push(rig, ADA).statuses == {2: "unchanged"}
    api.edit("p1", title="Broker")
    pull(rig, api)
    pushed = push(rig, ADA)
    assert (pushed.statuses, pushed.plan.kept, api.posts) == ({2: "unchanged"}, 1, 0)
    assert "title" in (pushed.messages[2] or "")


def test_a_changed_cell_is_sent_once_and_touches_nothing_else(rig: Rig, api: FakeApi):
    """Names and the contact go out as HiringCenter shows them, whatever the file says of them."""
    hire(api, "p1")
    pull(rig, api)
    push(rig, ADA)
    api.clock.advance(1_000)
    api.edit("p1", lastName="Lovelace", company="Babbage & Co")
    changed = {**ADA, "title": "Broker"}
    assert push(rig, changed).statuses == {2: "updated"}
    assert api.applied[-1].payload == {
        "firstName": "Ada", "lastName": "Lovelace", "email": "ada@x.org", "title": "Broker",
        "update": True,
    }  # fmt: skip
    assert push(rig, changed).statuses == {2: "unchanged"}
    assert api.posts == 1


def test_a_created_person_is_settled_by_the_answer(rig: Rig, api: FakeApi):
    """The same file again, and an edit in between: nothing is sent."""
    assert push(rig, ADA).statuses == {2: "created"}
    (id_,) = api.prospects
    api.edit(id_, title="Broker")
    assert push(rig, ADA).statuses == {2: "unchanged"}
    pull(rig, api)
    assert push(rig, ADA).plan.kept == 1
    assert api.posts == 1


def test_a_creation_is_one_whatever_its_answer_calls_it(rig: Rig, api: FakeApi):
    """Answered 200, as a match is: a new person who is as the row says was created by it."""
    api.says_created = None
    assert push(rig, ADA).statuses == {2: "created"}
    assert (api.posts, api.gets) == (1, 0)
    assert push(rig, ADA).statuses == {2: "unchanged"}


@pytest.mark.parametrize("says_created", [False, None])
def test_an_answer_without_id_is_about_the_person_with_the_contact(
    rig: Rig, api: FakeApi, says_created: bool | None
):
    """They are looked up once, so that the next push doesn't take them for deleted."""
    api.names_no_one, api.says_created = True, says_created
    assert push(rig, ADA).statuses == {2: "created"}
    assert (api.posts, api.gets) == (1, 1)
    pushed = push(rig, ADA)
    assert (pushed.statuses, pushed.messages, pushed.plan.kept) == ({2: "unchanged"}, {2: None}, 0)
    assert push(rig, {**ADA, "title": "Broker"}).statuses == {2: "updated"}
    assert len(api.prospects) == 1


@pytest.mark.parametrize("on_match", ["existing", "conflict"])
def test_a_person_who_appeared_is_merged_with_what_the_match_shows(
    rig: Rig, api: FakeApi, on_match: str
):
    """Whoever isn't in the copy is created or left alone, read, and only then changed."""
    api.on_match = on_match
    hire(api, "p1", title="Broker", lastName="Lovelace")
    pushed = push(rig, {**ADA, "lastName": "Lovelace"})
    assert pushed.statuses == {2: "updated"}
    assert api.applied[-1].payload["title"] == "Agent"
    assert api.applied[-1].payload["update"] is True
    assert len(api.applied) == 1


def test_a_value_that_hiringcenter_alters_comes_to_rest(rig: Rig, api: FakeApi):
    """It drops the phone: that is neither sent again nor reported as kept."""
    api.drops_phones = True
    push(rig, ADA)
    pull(rig, api)
    pushed = push(rig, ADA)
    assert (pushed.statuses, pushed.plan.kept, api.posts) == ({2: "unchanged"}, 0, 1)


def test_an_equal_cell_of_an_old_copy_is_looked_at_when_something_else_is_sent(
    rig: Rig, api: FakeApi
):
    """The merge is done again with the answer: both sides changed, and the file's change wins."""
    hire(api, "p1")
    pull(rig, api)
    push(rig, ADA)
    api.edit("p1", title="Broker")
    pull(rig, api)
    api.edit("p1", title="Boss")
    api.clock.advance(1_000)
    push(rig, {**ADA, "title": "Broker", "company": "Other"})
    assert api.applied[-1].payload["title"] == "Broker"


def test_two_sources_of_one_person_come_to_rest(rig: Rig, api: FakeApi):
    """Each sends its own change once."""
    hire(api, "p1")
    pull(rig, api)
    for title in ("Broker", "Boss"):
        push(rig, {**ADA, "title": title}, source=f"{title}.csv")
    posts = api.posts
    for title in ("Broker", "Boss", "Broker", "Boss"):
        pull(rig, api)
        assert push(rig, {**ADA, "title": title}, source=f"{title}.csv").statuses == {
            2: "unchanged"
        }
    assert api.posts == posts == 2


def test_a_renamed_file_takes_over_what_was_settled(rig: Rig, api: FakeApi):
    """What the former name settled is kept, also where a recruiter changed it since."""
    push(rig, ADA, source="monday.csv")
    (id_,) = api.prospects
    api.edit(id_, title="Broker")
    pull(rig, api)
    pushed = push(rig, ADA, source="tuesday.csv")
    assert (pushed.statuses, pushed.plan.kept, api.posts) == ({2: "unchanged"}, 1, 1)
    push(rig, {**ADA, "company": "Other"}, source="tuesday.csv")
    assert "title" not in api.applied[-1].payload


def test_rows_of_one_person_that_disagree_come_to_rest(rig: Rig, api: FakeApi):
    """Each is sent in its turn, the last one stays, and then nothing is sent."""
    rows = [{**ADA, "title": "Broker"}, {**ADA, "title": "Boss"}]
    push(rig, *rows)
    (person,) = api.prospects.values()
    assert person["title"] == "Boss"
    posts = api.posts
    pull(rig, api)
    assert set(push(rig, *rows).statuses.values()) == {"unchanged"}
    assert api.posts == posts


def test_a_deleted_person_stays_deleted_while_the_row_is_unchanged(rig: Rig, api: FakeApi):
    """A changed row creates them again, whole."""
    push(rig, ADA)
    api.prospects.clear()
    pull(rig, api)
    assert push(rig, ADA).statuses == {2: "unchanged"}
    pushed = push(rig, {**ADA, "title": "Broker"})
    assert pushed.statuses == {2: "created"}
    assert api.applied[-1].payload["company"] == "Acme"


def test_a_person_deleted_since_the_pull_is_noticed_by_the_look_up(rig: Rig, api: FakeApi):
    """The look-up finds no one: a changed row creates them again."""
    push(rig, ADA)
    pull(rig, api)
    api.clock.advance(1_000)
    api.prospects.clear()
    assert push(rig, {**ADA, "title": "Broker"}).statuses == {2: "created"}


def test_a_new_contact_of_another_person_is_rejected(rig: Rig, api: FakeApi):
    """Looked up first, nothing is sent; the row says whose it is."""
    hire(api, "p1")
    pull(rig, api)
    push(rig, ADA)
    hire(api, "p2", firstName="Bob", email="bob@x.org", phone="+14155550102")
    pushed = push(rig, {**ADA, "email": "bob@x.org"})
    assert (pushed.statuses, api.posts) == ({2: "rejected"}, 0)
    assert "p2" in (pushed.messages[2] or "")


def test_an_only_contact_is_not_changed(rig: Rig, api: FakeApi):
    """This API would create another person."""
    hire(api, "p1", email=None)
    pull(rig, api)
    row = {**ADA, "email": None}
    push(rig, row)
    entry_by_name = {**ADA, "email": None, "phone": "+14155550199"}
    pushed = push(rig, entry_by_name)
    assert set(pushed.statuses.values()) <= {"rejected", "created"}


def test_a_kill_before_the_answer_settles_nothing_and_after_it_everything(rig: Rig, api: FakeApi):
    """The write on disk carries what it settles; the next push closes both together."""
    hire(api, "p1")
    pull(rig, api)
    push(rig, ADA)
    api.fate = lambda n: "crash after" if n == 0 else "ok"
    changed = {**ADA, "title": "Broker"}
    with pytest.raises(Crash):
        push(rig, changed)
    pushed = push(rig, changed)
    assert (pushed.statuses, pushed.recovered) == ({2: "unchanged"}, 1)
    assert [each.payload["title"] for each in api.applied] == ["Broker"]
    api.edit("p1", title="Boss")
    assert push(rig, changed).statuses == {2: "unchanged"}
    assert api.prospects["p1"]["title"] == "Boss"


def test_restore_puts_back_what_is_known_to_differ(rig: Rig, api: FakeApi):
    """--restore; without it the recruiter's value stands."""
    hire(api, "p1")
    pull(rig, api)
    push(rig, ADA)
    api.edit("p1", title="Broker")
    pull(rig, api)
    assert push(rig, ADA, rules=MergeRules(restore=True)).statuses == {2: "updated"}
    assert api.prospects["p1"]["title"] == "Agent"


def forget_bases(rig: Rig) -> None:
    """The ledger as version 0.1 left it: it knows what was accepted, and of no base."""
    with rig.database.write() as connection:
        for table in (entries, entry_contacts, sources):
            connection.execute(sa.delete(table))
        connection.execute(sa.update(receipts).values(names=None))


@pytest.mark.parametrize("is_pulled", [True, False])
def test_an_upgrade_sends_nothing(rig: Rig, api: FakeApi, is_pulled: bool):
    """Whether a recruiter or the file has changed a cell since isn't known: HiringCenter's stands
    and is reported, the row is base, and what the file changes from then on is sent."""
    push(rig, ADA)
    forget_bases(rig)
    api.edit("p1", title="Broker")
    if is_pulled:
        pull(rig, api)
    pushed = push(rig, {**ADA, "company": "Other"})
    assert (pushed.statuses, pushed.plan.kept, api.posts) == ({2: "unchanged"}, 1, 1)
    assert push(rig, {**ADA, "company": "Third"}).statuses == {2: "updated"}
    assert api.applied[-1].payload["company"] == "Third"
    assert "title" not in api.applied[-1].payload


def test_an_upgrade_is_over_when_a_push_has_ended(rig: Rig, api: FakeApi):
    """A row that is new in the file's second push is sent."""
    bob = {"firstName": "Bob", "lastName": "Lee", "email": "bob@x.org"}
    push(rig, ADA, bob)
    forget_bases(rig)
    push(rig, ADA)
    assert push(rig, ADA, {**bob, "title": "Broker"}).statuses == {2: "unchanged", 3: "updated"}


def test_a_second_file_adopts_what_it_pushed_before_too(rig: Rig, api: FakeApi):
    """Each source's first push after the upgrade sends nothing of what 0.1 has sent."""
    for title in ("Broker", "Boss"):
        push(rig, {**ADA, "title": title}, source=f"{title}.csv")
    forget_bases(rig)
    posts = api.posts
    for title in ("Broker", "Boss", "Broker"):
        statuses = push(rig, {**ADA, "title": title}, source=f"{title}.csv").statuses
        assert statuses == {2: "unchanged"}
    assert (api.posts, api.prospects["p1"]["title"]) == (posts, "Boss")


def test_a_person_deleted_before_an_upgrade_stays_deleted(rig: Rig, api: FakeApi):
    """And is created again, whole, when the row changes."""
    push(rig, ADA)
    forget_bases(rig)
    api.prospects.clear()
    pull(rig, api)
    assert push(rig, ADA).statuses == {2: "unchanged"}
    assert push(rig, ADA).statuses == {2: "unchanged"}
    assert push(rig, {**ADA, "title": "Broker"}).statuses == {2: "created"}


def test_people_of_earlier_pushes_are_known_from_the_results_too(rig: Rig, api: FakeApi):
    """The ledger was lost; `_hc_push_results` says who was pushed."""
    hire(api, "p1", title="Broker")
    hire(api, "p2", email="bob@x.org", phone=None)
    api.clock.advance(1)
    copy = CopiedPeople(api)
    copy.pushed = frozenset({"p1"})
    rig.pulled = copy
    bob = {"firstName": "Ada", "lastName": "King", "email": "bob@x.org", "title": "Boss"}
    assert push(rig, ADA, bob).statuses == {2: "unchanged", 3: "updated"}
    assert api.prospects["p1"]["title"] == "Broker"


def test_a_row_that_was_refused_is_not_tried_again(rig: Rig, api: FakeApi):
    """Neither sent nor looked up, while neither the row nor anybody whom it is about changes; the
    reason is reported each time."""
    hire(api, "p1")
    hire(api, "p2", firstName="Bob", email="bob@x.org", phone="+14155550102")
    pull(rig, api)
    push(rig, ADA)
    changed = {**ADA, "email": "bob@x.org", "phone": "+14155550101"}
    api.prospects["p2"]["phone"] = None
    rig.pulled = Pulled()
    first = push(rig, changed)
    gets = api.gets
    for _ in range(2):
        again = push(rig, changed)
        assert (again.statuses, api.gets, api.posts) == ({2: "rejected"}, gets, 0)
        assert (again.messages[2] or "").startswith((first.messages[2] or "x")[:40])
    push(rig, changed, force=True)
    assert api.gets > gets


def test_a_refused_row_is_tried_again_when_its_person_has_changed(rig: Rig, api: FakeApi):
    """The other person has given up the contact, as a pull shows; or the row has another value."""
    hire(api, "p1")
    pull(rig, api)
    push(rig, ADA)
    hire(api, "p2", firstName="Bob", email="bob@x.org", phone=None)
    changed = {**ADA, "email": "bob@x.org"}
    assert push(rig, changed).statuses == {2: "rejected"}
    gets = api.gets
    pull(rig, api)
    assert push(rig, changed).statuses == {2: "rejected"}
    assert push(rig, {**ADA, "title": "Boss"}).statuses == {2: "updated"}
    api.edit("p2", email="robert@x.org")
    api.clock.advance(10)
    pull(rig, api)
    assert push(rig, changed).statuses == {2: "updated"}
    assert api.prospects["p1"]["email"] == "bob@x.org"
    assert api.gets > gets


def test_what_the_api_refused_is_not_sent_again(rig: Rig, api: FakeApi):
    """A 400 for its content; the next push sends it once it says something else, or by force."""
    api.fate = lambda _: "refused"
    for _ in range(3):
        pushed = push(rig, {**ADA, "title": "Broker"})
        assert (pushed.statuses, api.posts) == ({2: "rejected"}, 1)
    assert "refused it (400)" in (pushed.messages[2] or "")
    push(rig, {**ADA, "title": "Broker"}, force=True)
    assert api.posts == 2
    api.fate = lambda _: "ok"
    assert push(rig, ADA).statuses == {2: "created"}


def test_restore_leaves_what_another_source_has_put_there(rig: Rig, api: FakeApi):
    """A disagreement between two jobs is reported; neither undoes the other's work each hour."""
    for title in ("Broker", "Boss"):
        push(rig, {**ADA, "title": title}, source=f"{title}.csv")
    pull(rig, api)
    pushed = push(rig, {**ADA, "title": "Broker"}, source="Broker.csv", rules=RESTORE)
    assert (pushed.statuses, pushed.plan.kept) == ({2: "unchanged"}, 1)
    assert "another source has pushed what HiringCenter has: title" in (pushed.messages[2] or "")
    assert api.prospects["p1"]["title"] == "Boss"
    api.edit("p1", title="Typo")
    pull(rig, api)
    push(rig, {**ADA, "title": "Broker"}, source="Broker.csv", rules=RESTORE)
    assert api.prospects["p1"]["title"] == "Broker"


def test_restore_creates_deleted_people_again(rig: Rig, api: FakeApi):
    """Whole; without it they stay deleted while the row is unchanged."""
    push(rig, ADA)
    api.prospects.clear()
    pull(rig, api)
    assert push(rig, ADA).statuses == {2: "unchanged"}
    assert push(rig, ADA, rules=RESTORE).statuses == {2: "created"}
    assert api.applied[-1].payload["company"] == "Acme"


def test_an_empty_cell_that_clears_is_merged_like_any_value(rig: Rig, api: FakeApi):
    """--clear-empty: sent once; what a recruiter writes there later stands."""
    push(rig, ADA)
    cleared = {**ADA, "title": None}
    assert push(rig, cleared).statuses == {2: "updated"}
    assert api.applied[-1].payload["title"] is None
    assert push(rig, cleared).statuses == {2: "unchanged"}
    api.edit("p1", title="Broker")
    pull(rig, api)
    assert (push(rig, cleared).statuses, api.prospects["p1"]["title"]) == (
        {2: "unchanged"}, "Broker"
    )  # fmt: skip


def test_an_absent_cell_says_nothing(rig: Rig, api: FakeApi):
    """A column that is left out changes nothing, and is as it was when it comes back."""
    push(rig, ADA)
    without = {name: value for name, value in ADA.items() if name != "title"}
    assert push(rig, without).statuses == {2: "unchanged"}
    api.edit("p1", title="Broker")
    assert push(rig, ADA).statuses == {2: "unchanged"}
    assert api.prospects["p1"]["title"] == "Broker"


def test_a_row_with_other_contacts_under_the_names_of_a_lost_one_is_rejected(
    rig: Rig, api: FakeApi
):
    """It would create another person; --allow-shared-contact says that it is one. While the
    other row is still there, it is another person anyway."""
    push(rig, ADA)
    moved = {**ADA, "email": "ada@new.org", "phone": "+14155550777"}
    pushed = push(rig, moved)
    assert pushed.statuses == {2: "rejected"}
    assert (pushed.messages[2] or "").startswith("contact changed?")
    assert push(rig, ADA, moved).statuses == {2: "unchanged", 3: "created"}
    other = {**ADA, "email": "ada@third.org", "phone": "+14155550888"}
    assert push(rig, ADA, other, allow_shared_contact=True).statuses[3] == "created"


def test_a_new_contact_is_sent_with_a_known_one(rig: Rig, api: FakeApi):
    """By the contact that stays, after one look at it and one that shows that the new one is no
    one's."""
    push(rig, ADA)
    assert push(rig, {**ADA, "phone": "+14155550777"}).statuses == {2: "updated"}
    assert (api.applied[-1].payload["email"], api.gets) == (ADA["email"], 2)
    assert push(rig, {**ADA, "email": "new@x.org", "phone": "+14155550777"}).statuses == {
        2: "updated"
    }
    assert (api.applied[-1].payload["phone"], api.gets) == ("+14155550777", 4)
    assert len(api.prospects) == 1


def test_a_person_whose_email_was_edited_is_found_by_their_phone(rig: Rig, api: FakeApi):
    """And changed by it: two looks, the first of which finds no one."""
    push(rig, ADA)
    api.edit("p1", email="edited@x.org")
    assert push(rig, {**ADA, "title": "Broker"}).statuses == {2: "updated"}
    sent = api.applied[-1].payload
    assert (sent["phone"], sent["title"], "email" in sent) == (ADA["phone"], "Broker", False)
    assert (api.gets, api.prospects["p1"]["email"]) == (2, "edited@x.org")


def test_what_is_uncertain_is_kept_once_a_pull_shows_what_is_there(rig: Rig, api: FakeApi):
    """Until then each push reports it as uncertain; it is never sent by itself."""
    api.keys_ttl_s = 60
    push(rig, ADA)
    api.fate = lambda n: "crash before" if n == 1 else "ok"
    changed = {**ADA, "title": "Broker"}
    with pytest.raises(Crash):
        push(rig, changed)
    api.edit("p1", company="Other")
    api.clock.advance(100_000)
    for _ in range(2):
        assert push(rig, changed).statuses == {2: "failed"}
    pull(rig, api)
    pushed = push(rig, changed)
    assert (pushed.statuses, pushed.plan.kept) == ({2: "unchanged"}, 1)
    assert api.prospects["p1"]["title"] == "Agent"


def test_rows_of_one_person_that_disagree_say_so(rig: Rig, api: FakeApi):
    """Each push, whether or not it sends anything."""
    rows = [{**ADA, "title": "Broker"}, {**ADA, "title": "Boss"}]
    for _ in range(2):
        pushed = push(rig, *rows)
        for number in (2, 3):
            assert "rows of this person disagree: title" in (pushed.messages[number] or "")


def test_labels_of_several_rows_are_all_added(rig: Rig, api: FakeApi):
    """Each row sends its own, and none takes off what another has added."""
    hire(api, "p1", labels=["by hand"])
    pull(rig, api)
    rows = [{**ADA, "labels_add": ["a"]}, {**ADA, "labels_add": ["b"]}]
    push(rig, *rows)
    assert set(api.prospects["p1"]["labels"]) == {"by hand", "a", "b"}
    posts = api.posts
    pull(rig, api)
    assert set(push(rig, *rows).statuses.values()) == {"unchanged"}
    assert api.posts == posts


def test_a_value_that_another_of_the_rows_was_refused_with_is_still_sent(rig: Rig, api: FakeApi):
    """Both rows have the new title; the one that comes later can't be sent."""
    hire(api, "p1", phone=None)
    pull(rig, api)
    push(rig, {**ADA, "phone": None})
    rows = [
        {**ADA, "phone": None, "title": "Boss"},
        {**ADA, "phone": None, "title": "Boss", "company": "Other"},
    ]
    api.fate = lambda n: "refused" if n == 1 else "ok"
    assert push(rig, *rows).statuses == {2: "updated", 3: "rejected"}
    assert api.prospects["p1"]["title"] == "Boss"


@pytest.mark.parametrize("known", ["unknown", "met", "fresh", "old"])
def test_rows_of_one_person_that_say_the_same_cost_what_one_costs(
    rig: Rig, api: FakeApi, known: str
):
    """However well the person is known before: the answer to the first shows the others that there
    is nothing left to do. One that asks for more is sent."""
    if known != "unknown":
        hire(api, "p1", title="Old")
    if known in ("fresh", "old"):
        pull(rig, api)
        api.clock.advance(1_000 if known == "old" else 0)
    done = "created" if known == "unknown" else "updated"
    asked = {"unknown": (1, 0), "met": (2, 1), "fresh": (1, 0), "old": (1, 1)}
    rows = [ADA] * 5
    pushed = push(rig, *rows)
    assert list(pushed.statuses.values()) == [done] + 4 * ["unchanged"]
    assert (api.posts, api.gets) == asked[known]
    pushed = push(rig, *rows, {**ADA, "company": "Other"})
    assert list(pushed.statuses.values()) == 5 * ["unchanged"] + ["updated"]
    assert (len(api.prospects), api.prospects["p1"]["company"]) == (1, "Other")


def test_a_person_found_deleted_while_sending_counts_as_kept(rig: Rig, api: FakeApi):
    """As if the plan had known it: nothing of the row is sent."""
    hire(api, "p1")
    pull(rig, api)
    (at_ms,) = (each["updatedAt"] for each in api.prospects.values())
    row = {**ADA, "title": "Broker", "id": "p1", "updated_at": at_ms, "_hc_deleted_at": ""}
    api.clock.advance(1_000)
    api.prospects.clear()
    pushed = push(rig, row, is_export=True)
    assert (pushed.statuses, pushed.kept, api.posts) == ({2: "unchanged"}, 1, 0)
    assert "deleted in HiringCenter" in (pushed.messages[2] or "")
