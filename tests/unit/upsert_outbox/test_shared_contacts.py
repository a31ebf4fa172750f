"""Two people behind one contact: first names and the other contact distinguish them."""

from __future__ import annotations

import unicodedata
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.upsert.outbox.evidence import Pulled, PulledProspect
from connector.upsert.outbox.matching import (
    Candidate,
    Hasher,
    OtherPerson,
    first_name,
    judge,
    stored_first_name,
)
from connector.upsert.outbox.outbox_schema import receipts
from tests.pushes.fake_api import FakeApi
from tests.pushes.rig import CopyByContact, Rig

P, Q = "+14155550100", "+14155550101"
HASHER = Hasher(b"s" * 32)


def agree(one: str, other: str) -> bool:
    """In clear and hashed, both ways round."""
    first, second = first_name(one), first_name(other)
    assert first is not None
    assert second is not None
    stored = stored_first_name(HASHER.names(one, "X"))
    assert stored is not None
    answers = {
        first.agrees(second),
        second.agrees(first),
        stored.agrees(HASHER.name(second)),
        HASHER.name(second).agrees(stored),
    }
    assert len(answers) == 1
    return answers.pop()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ann", "ANN"), ("José", "Jose"), ("Zoë", "Zoe\u0308"), ("J.", "Jane"), ("Rob", "Robert"),
        ("Mary Ann", "Mary"), ("Mary-Ann", "maryann"), ("J.P.", "Jean-Pierre"),
        ("J. P.", "Jean Pierre"), ("Jürgen", "Juergen"), ("Søren", "Soren"), ("Åse", "Aase"),
        ("D'Arcy", "D’Arcy"), ("Łukasz", "Lukasz"), ("Ｊａｎｅ", "Jane"), ("Straße", "STRASSE"),
        ("  Ann ", "Ann"), ("李", "李明"), ("Ann\u00a0Marie", "Ann Marie"), ("İpek", "Ipek"),
    ],
)  # fmt: skip
def test_spellings_of_one_first_name_agree(one: str, other: str):
    """Case, accents, width, punctuation, an initial or a prefix aside."""
    assert agree(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ann", "Bob"), ("Bob", "Robert"), ("Christian", "Christina"), ("J.", "Kim"),
        ("Mary Ann", "Mary Jo"), ("राम", "रमा"), ("이", "인"), ("Alexander", "Aleksander"),
    ],
)  # fmt: skip
def test_other_first_names_dont(one: str, other: str):
    """Nicknames are other names; so are names of which one isn't the beginning of the other."""
    assert not agree(one, other)


@pytest.mark.parametrize("text", ["", " ", "-", "...", "🙂", None, 7])
def test_a_value_that_is_no_name_contradicts_no_name(text: Any):
    """Without a letter in it, there is no first name."""
    assert first_name(text) is None
    assert stored_first_name(HASHER.names(text, "X")) is None


@given(st.text(min_size=1, max_size=30), st.integers(1, 30))
def test_any_name_agrees_with_its_spellings_and_beginnings(name: str, length: int):
    """Upper case, lower case, decomposed, or cut short after any letter."""
    if first_name(name) is None:
        return
    folded = str(first_name(name).whole)  # type: ignore[union-attr]
    for other in (name.casefold(), unicodedata.normalize("NFD", name), folded[:length]):
        if first_name(other) is not None and folded.startswith(str(first_name(other).whole)):  # type: ignore[union-attr]
            assert agree(name, other)


def row(number: int, name: str, email: int | None, phone: int | None, **known: Any) -> Candidate:
    contacts = [(kind, key) for kind, key in (("email", email), ("phone", phone)) if key]
    both = (email, phone) if email and phone else None
    return Candidate(number, first_name(name), name, tuple(contacts), both, **known)


def known(*, by_email: bool = False, by_phone: bool = False) -> tuple[OtherPerson, ...]:
    return (OtherPerson("x1", by_email, by_phone, "Carl"),)


@pytest.mark.parametrize("email", [11, None])
def test_a_phone_alone_doesnt_make_two_people_one(email: int | None):
    """Matched by phone, another first name, another email or none."""
    found = judge([row(5, "Bob", email, 2, others=known(by_phone=True))])[5]
    assert "prospect x1" in found.reason
    assert found.reason.startswith("a different first name")
    assert "--allow-shared-contact" in found.reason
    assert "Bob" not in found.reason
    assert "Carl" not in found.reason
    assert found.names == "this row: Bob; the other: Carl"


@pytest.mark.parametrize("phone", [12, None])
def test_an_email_alone_doesnt_make_two_people_one(phone: int | None):
    """Matched by email, another first name, another phone or none."""
    assert judge([row(5, "Bob", 1, phone, others=known(by_email=True))]).keys() == {5}


def test_both_contacts_are_one_person_unless_the_file_says_otherwise():
    """A new first name for the same email and phone is a change; two of them are two people."""
    both = known(by_email=True, by_phone=True)
    bob, ann = row(2, "Bob", 1, 2, others=both), row(3, "Ann", 1, 2, others=both)
    assert judge([bob]) == {}
    conflicts = judge([bob, ann])
    assert conflicts.keys() == {2, 3}
    assert "row 3" in conflicts[2].reason
    assert "row 2" in conflicts[3].reason
    carl = row(3, "Carl", 1, 2, rank=1)
    assert judge([bob, carl]).keys() == {2}


def test_within_a_file_the_first_row_stands():
    """No one is known: the later row with another name is rejected, and joins no group."""
    rows = [row(2, "Ann", 1, 9), row(3, "Bob", 2, 9), row(4, "A.", 3, 9), row(5, "Bob", 2, None)]
    assert judge(rows).keys() == {3}


def test_a_row_that_is_known_to_be_about_its_person_stands_wherever_it_is():
    """The API has Bob: Ann's row above his is the one that is rejected."""
    rows = [row(2, "Ann", 1, 9, others=known(by_phone=True)), row(3, "Bob", 2, 9, rank=1)]
    assert judge(rows).keys() == {2}
    rows = [row(2, "Ann", 1, 9), row(3, "Bob", 2, 9, rank=0)]
    assert judge(rows).keys() == {2}


def test_a_settled_name_is_never_rejected():
    """This source has settled both names on that very person; a third is as ever."""
    settled = frozenset({("phone", 9)})
    both = [row(2, "Ann", 1, 9, settled=settled), row(3, "Bob", 2, 9, settled=settled)]
    assert judge(both) == {}
    assert judge([*both, row(4, "Cy", 3, 9)]).keys() == {4}


NAMES = st.sampled_from(["Ann", "A.", "Anna", "Bob", "Cy", "-"])
ROWS = st.lists(
    st.tuples(NAMES, st.none() | st.integers(1, 4), st.none() | st.integers(1, 4)), max_size=12
)


@given(ROWS)
def test_rows_that_stand_never_contradict_each_other(rows: list[Any]):
    """Of rows that share a contact, those that aren't rejected have agreeing names; and each
    rejected one contradicts one that stands."""
    judged = [row(number, *each) for number, each in enumerate(rows, start=2)]
    conflicts = judge(judged)
    standing = [each for each in judged if each.row_number not in conflicts and each.name]

    def contradicts(one: Candidate, other: Candidate) -> bool:
        assert one.name is not None
        assert other.name is not None
        return bool(set(one.contacts) & set(other.contacts)) and not one.name.agrees(other.name)

    assert not any(contradicts(one, other) for one in standing for other in standing)
    for each in judged:
        if each.row_number in conflicts:
            assert any(contradicts(each, other) for other in standing)


# --- with an outbox: receipts, the pulled copy, the file's other rows --------------------------


class Copy(CopyByContact):
    """What a pull has seen of the prospects of `api`."""

    def __init__(self, api: FakeApi, *, complete: bool = True) -> None:
        self.people = {id_: dict(fields) for id_, fields in api.prospects.items()}
        self.complete_ms = api.now_ms() if complete else None

    def by_id(self, ids: Any, *, with_fields: bool = False) -> dict[str, PulledProspect]:
        return {
            id_: PulledProspect(id_, self.people[id_]["updatedAt"], None, self.people[id_])
            for id_ in ids
            if id_ in self.people
        }

    def by_email(self, emails: Any) -> dict[str, frozenset[str]]:
        return self._by("email", emails)

    def by_phone(self, phones: Any) -> dict[str, frozenset[str]]:
        return self._by("phone", phones)

    def _by(self, name: str, values: Any) -> dict[str, frozenset[str]]:
        found = {
            value: frozenset(id_ for id_, each in self.people.items() if each.get(name) == value)
            for value in values
        }
        return {value: ids for value, ids in found.items() if ids}


def person(first: str, email: str | None = None, phone: str | None = None, **more: Any) -> Any:
    contacts = {"email": email and f"{email}@example.com", "phone": phone}
    named = {name: value for name, value in contacts.items() if value}
    return {"firstName": first, "lastName": "Lee", **named, **more}


def names(api: FakeApi) -> list[str]:
    return [each["firstName"] for each in api.prospects.values()]


def test_two_people_in_one_file_stay_two(rig: Rig, api: FakeApi):
    """Bob has Ann's phone: his row is rejected by both row numbers, and his name is only in the
    rejects; pushed again, nothing is sent; --allow-shared-contact sends it."""
    rows = [person("Ann", "ann", P, company="Acme"), person("Bob", "bob", P)]
    for first in ("created", "unchanged"):
        pushed = rig.push(rows)
        assert pushed.statuses == {2: first, 3: "rejected"}
        assert "row 2" in (pushed.messages[3] or "") or "prospect p1" in (pushed.messages[3] or "")
        assert "Ann" not in (pushed.messages[3] or "")
        assert "this row: Bob" in pushed.rejects[-1].reason
    assert (names(api), api.posts) == (["Ann"], 1)
    assert rig.push(rows, allow_shared_contact=True).statuses == {2: "unchanged", 3: "updated"}
    assert names(api) == ["Bob"]


def test_what_was_allowed_once_is_settled_for_its_source_alone(rig: Rig, api: FakeApi):
    """The same file without the option: unchanged, and its changes are sent; another file's
    isn't."""
    rows = [person("Ann", phone=P), person("Bob", phone=P)]
    rig.push(rows, allow_shared_contact=True)
    assert set(rig.push(rows).statuses.values()) == {"unchanged"}
    rows[1]["company"] = "Acme"
    assert rig.push(rows[1:]).statuses == {2: "updated"}
    rows[0]["company"] = "Acme"
    assert rig.push(rows[:1], source="other.csv").statuses == {2: "rejected"}
    assert rig.push(rows[:1]).statuses == {2: "updated"}


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        (person("Ann", "ann", P), person("Bob", "bob", P), "rejected"),
        (person("Ann", "ann", P), person("Bob", None, P), "rejected"),
        (person("Ann", None, P), person("Bob", "bob", P), "rejected"),
        (person("Ann", "info", P), person("Bob", "info", Q), "rejected"),
        (person("Ann", "info", P), person("Bob", "info"), "rejected"),
        (person("Ann", "info"), person("Bob", "info", Q), "rejected"),
        (person("Robert", "info"), person("Bob", "info"), "rejected"),
        (person("Ann", "ann", P), person("Bob", "ann", P), "updated"),
        (person("Ann", "ann", P), person("A.", "other", P), "updated"),
        (person("Ann", "ann", P), person("ANN", "other", P), "updated"),
        (person("Ann", "ann", P), person("Ann", "ann", P) | {"lastName": "Poe"}, "updated"),
        (person("Ann", "ann", P), person("-", "ann"), "updated"),
        (person("-", "ann", P), person("Bob", "bob", P), "updated"),
    ],
)
@pytest.mark.parametrize("known_by", ["receipt", "pull", "both"])
def test_files_a_week_apart(
    rig: Rig, api: FakeApi, before: Any, after: Any, status: str, known_by: str
):
    """Whom the first file created is known from its receipt, from a pull, or from both."""
    if known_by == "pull":
        api.post("prospects", orjson.dumps(before), idempotency_key="theirs")
    else:
        rig.push([before], source="monday.csv")
    api.clock.advance(7 * 86_400)
    if known_by != "receipt":
        rig.pulled = Copy(api)
    posts = api.posts
    pushed = rig.push([after], source="tuesday.csv")
    assert pushed.statuses == {2: status}
    assert api.posts - posts == (status == "updated")
    assert len(api.prospects) == 1
    if status == "rejected":
        assert "prospect p1" in (pushed.messages[2] or "")


def test_receipts_of_version_0_1_have_no_names(rig: Rig, api: FakeApi):
    """An unknown name isn't another one: the pulled copy decides, else the look before a change."""
    rig.push([person("Ann", "ann", P)])
    with rig.database.write() as connection:
        connection.execute(receipts.update().values(names=None))
    bob = person("Bob", "bob", P)
    rig.pulled = Copy(api)
    assert rig.push([bob], source="other.csv").statuses == {2: "rejected"}
    rig.pulled = Pulled()
    assert rig.push([bob | {"title": "Dr"}], source="other.csv").statuses == {2: "rejected"}
    bob["email"] = "ann@example.com"
    assert rig.push([bob], source="other.csv").statuses == {2: "updated"}


def test_an_outbox_without_names_is_upgraded(rig: Rig):
    """Tables as version 0.1 made them: what was accepted stays accepted, and names are learnt."""
    rig.push([person("Ann", "ann", P)])
    with rig.database.write() as connection:
        for statement in (
            "ALTER TABLE outbox_receipts DROP COLUMN names",
            "ALTER TABLE outbox_writes DROP COLUMN creates",
            "DROP TABLE outbox_settled_names",
            "DROP TABLE outbox_disputed",
            "UPDATE schema_versions SET version = 3 WHERE component = 'outbox'",
        ):
            connection.exec_driver_sql(statement)
    assert rig.push([person("Ann", "ann", P)]).statuses == {2: "unchanged"}
    assert rig.push([person("Ann", "ann", P, title="Dr")]).statuses == {2: "updated"}
    assert rig.push([person("Bob", "bob", P)], source="other.csv").statuses == {2: "rejected"}


def test_a_contact_that_its_person_has_lost_is_free(rig: Rig, api: FakeApi):
    """A newer copy shows Ann with another phone: Bob's row with her old one creates him."""
    rig.push([person("Ann", "ann", P)])
    api.edit("p1", phone=Q)
    rig.pulled = Copy(api)
    assert rig.push([person("Bob", "bob", P)]).statuses == {2: "created"}
    assert names(api) == ["Ann", "Bob"]


def test_a_phone_that_the_api_dropped_matches_no_one(rig: Rig, api: FakeApi):
    """It led to Ann's prospect only because her row said so: Bob's row with it is his own."""
    api.drops_phones = True
    rig.push([person("Ann", "ann", P)])
    api.drops_phones = False
    assert rig.push([person("Bob", "bob", P)]).statuses == {2: "created"}


def test_a_rejected_row_joins_no_group(rig: Rig, api: FakeApi):
    """Bob's first row shares a phone with Ann; his second, with his email alone, is his."""
    rows = [person("Ann", "ann", P), person("Bob", "bob", P), person("Bob", "bob")]
    assert rig.push(rows).statuses == {2: "created", 3: "rejected", 4: "created"}
    assert rig.push(rows).statuses == {2: "unchanged", 3: "rejected", 4: "unchanged"}
    assert names(api) == ["Ann", "Bob"]


def test_force_doesnt_overwrite_another_person(rig: Rig, api: FakeApi):
    """--force sends what is unchanged; whom it is about is another question."""
    rig.push([person("Ann", "ann", P)])
    assert rig.push([person("Bob", "bob", P)], force=True).statuses == {2: "rejected"}


def test_a_constant_phone_leaves_the_first_row_alone(rig: Rig, api: FakeApi):
    """However many rows share it: one person, and each other name is rejected before it is sent."""
    people = [person(first, None, P) for first in ("Ann", "Bob", "Cy")]
    assert sorted(rig.push(people).statuses.values()) == ["created", "rejected", "rejected"]
    assert api.posts == 1


# --- another prospect answers than the one that was expected ------------------------------------


def joins(api: FakeApi, post: int) -> None:
    """Before a POST goes out, and after the look at Ann, she is deleted, and her contacts are
    Zoe's."""

    def happens(number: int) -> None:
        if number == post:
            api.before_post = lambda _: None
            del api.prospects["p1"]
            api.post("prospects", orjson.dumps(person("Zoe", "ann", P)), idempotency_key="theirs")

    api.before_post = happens


def test_another_prospect_in_the_answer_is_a_failure(rig: Rig, api: FakeApi):
    """The answer names Zoe's prospect. The row failed with both ids, its contact is disputed, and
    costs nothing until --allow-shared-contact."""
    rig.push([person("Ann", "ann", P)])
    joins(api, 1)
    row = person("Ann", "ann", P, company="Acme")
    pushed = rig.push([row])
    assert pushed.statuses == {2: "failed"}
    assert "prospect p2" in (pushed.messages[2] or "")
    assert "p1 was expected" in (pushed.messages[2] or "")
    assert "Zoe" not in (pushed.messages[2] or "")
    posts = api.posts
    for rows in ([row], [person("Ann", None, P)]):
        pushed = rig.push(rows, source="any.csv", force=True)
        assert pushed.statuses == {2: "rejected"}
        assert "disputed" in (pushed.messages[2] or "")
    assert api.posts == posts
    api.prospects["p2"]["company"] = "Other"
    assert rig.push([row], allow_shared_contact=True).statuses == {2: "updated"}
    assert rig.push([row]).statuses == {2: "unchanged"}
    assert rig.push([row | {"title": "Dr"}]).statuses == {2: "updated"}


def test_rows_behind_a_disputed_contact_wait_in_the_same_push(rig: Rig, api: FakeApi):
    """The second row of the person isn't sent after the first was answered with another person."""
    rig.push([person("Ann", "ann", P)])
    joins(api, 1)
    rows = [person("Ann", "ann", P, title="Dr"), person("Ann", "ann", P, company="Acme")]
    assert rig.push(rows).statuses == {2: "failed", 3: "rejected"}


def test_a_person_who_has_taken_over_a_contact_is_left_alone(rig: Rig, api: FakeApi):
    """Ann was deleted and her phone is Zoe's, which the look before the change shows."""
    rig.push([person("Ann", "ann", P)])
    del api.prospects["p1"]
    api.post("prospects", orjson.dumps(person("Zoe", "zoe", P)), idempotency_key="theirs")
    pushed = rig.push([person("Ann", "ann", P, company="Acme")])
    assert pushed.statuses == {2: "rejected"}
    assert "prospect p2" in (pushed.messages[2] or "")
    assert names(api) == ["Zoe"]


def test_contacts_follow_a_prospect_that_is_known_by_that_name(rig: Rig, api: FakeApi):
    """A recruiter has joined two prospects of Ann's: the look finds the one that is left."""
    rig.push([person("Ann", None, P), person("Ann", "ann")])
    del api.prospects["p1"]
    api.edit("p2", phone=P)
    row = person("Ann", None, P, company="Acme")
    assert rig.push([row]).statuses == {2: "updated"}
    assert rig.push([row]).statuses == {2: "unchanged"}
    assert rig.push([row | {"company": "Globex"}]).statuses == {2: "updated"}
    assert list(api.prospects) == ["p2"]


def test_a_corrected_contact_creates_no_one(rig: Rig, api: FakeApi):
    """A recruiter corrected the email; the file has the old one: Ann is looked up by her id, and
    changed by the email that she has."""
    rig.push([person("Ann", "ann")])
    api.edit("p1", email="ann.lee@example.com")
    assert rig.push([person("Ann", "ann", company="Acme")]).statuses == {2: "updated"}
    assert api.applied[-1].payload["email"] == "ann.lee@example.com"
    assert list(api.prospects) == ["p1"]


def test_a_second_person_created_by_an_update_is_a_failure(rig: Rig, api: FakeApi):
    """A recruiter corrects the email just before the write: HiringCenter creates a person.
    Reported once, and never created again."""
    rig.push([person("Ann", "ann")])
    edit = {"email": "ann.lee@example.com"}
    api.before_post = lambda number: number == 1 and api.edit("p1", **edit)
    row = person("Ann", "ann", company="Acme")
    pushed = rig.push([row])
    assert pushed.statuses == {2: "failed"}
    assert "created prospect p2" in (pushed.messages[2] or "")
    assert "p1 was to be changed" in (pushed.messages[2] or "")
    assert rig.push([row]).statuses == {2: "unchanged"}


def test_a_deleted_prospect_that_is_created_again_isnt_a_failure(rig: Rig, api: FakeApi):
    """No one else has the contact: its row has changed, and is whole again."""
    rig.push([person("Ann", "ann")])
    del api.prospects["p1"]
    pushed = rig.push([person("Ann", "ann", company="Acme")])
    assert pushed.statuses == {2: "created"}
    assert "p1 was deleted" in (pushed.messages[2] or "")


def test_a_phone_that_a_pull_saw_move_is_rejected_before_anything_is_sent(rig: Rig, api: FakeApi):
    """The copy shows that Ann was deleted and that Zoe has her phone."""
    rig.push([person("Ann", "ann", P)])
    del api.prospects["p1"]
    api.clock.advance(60)
    api.post("prospects", orjson.dumps(person("Zoe", "zoe", P)), idempotency_key="theirs")
    rig.pulled = Copy(api)
    posts = api.posts
    pushed = rig.push([person("Ann", "ann", P, company="Acme")])
    assert pushed.statuses == {2: "rejected"}
    assert "prospect p2" in (pushed.messages[2] or "")
    assert api.posts == posts


# --- whom only the API knows: no receipt, no pull ------------------------------------------------


def theirs(api: FakeApi, payload: dict[str, Any]) -> None:
    """A person whom this connector doesn't know, created a while ago."""
    api.post("prospects", orjson.dumps(payload), idempotency_key=f"theirs {len(api.prospects)}")
    api.clock.advance(3600)
    api.posts, api.applied = 0, []


@pytest.fixture(params=["existing", "conflict"])
def unknown(request: pytest.FixtureRequest, api: FakeApi) -> FakeApi:
    """Both revisions of what `update: false` answers on a match."""
    api.on_match = request.param
    theirs(api, person("Ann", "ann", P, company="Acme"))
    return api


@pytest.mark.parametrize(
    "row", [person("Bob", "bob", P), person("Bob", "ann"), person("Bob", None, P)]
)
def test_another_person_who_is_met_is_left_alone(rig: Rig, unknown: FakeApi, row: Any):
    """Bob's row is a creation, which meets Ann and does nothing: rejected, naming her prospect;
    her name is in the rejects alone. The option overwrites her."""
    pushed = rig.push([row])
    assert pushed.statuses == {2: "rejected"}
    assert "prospect p1" in (pushed.messages[2] or "")
    assert "Ann" not in (pushed.messages[2] or "")
    assert "the other: Ann" in pushed.rejects[-1].reason
    assert (names(unknown), unknown.posts, unknown.applied) == (["Ann"], 1, [])
    assert rig.push([row], allow_shared_contact=True).statuses == {2: "updated"}
    assert names(unknown) == ["Bob"]


def test_the_person_who_is_met_is_updated(rig: Rig, unknown: FakeApi):
    """Two POSTs, one change; then it costs nothing."""
    row = person("A.", "ann", Q, title="Dr")
    assert rig.push([row]).statuses == {2: "updated"}
    assert (unknown.posts, len(unknown.applied), len(unknown.prospects)) == (2, 1, 1)
    assert unknown.applied[0].payload == row | {"update": True}
    assert rig.push([row]).statuses == {2: "unchanged"}
    assert unknown.posts == 2


def test_a_person_met_as_the_row_says_needs_no_change(rig: Rig, unknown: FakeApi):
    """One POST that changes nothing, and then none."""
    row = person("Ann", "ann", P, company="Acme")
    for _ in range(2):
        assert rig.push([row]).statuses == {2: "unchanged"}
        assert (unknown.posts, unknown.applied) == (1, [])


def test_a_server_that_ignores_update_false_has_updated(rig: Rig, api: FakeApi):
    """Its answer is what the row says: nothing more is sent. So is the first answer, before which
    nothing was known of the server's clock, and which comes after others were sent."""
    names = [f"Ann{number}" for number in range(12)]
    for name in names:
        theirs(api, person(name, name.lower()))
    api.on_match = "ignored"
    api.clock.advance(60)
    pushed = rig.push([person(name, name.lower(), title="Dr") for name in names])
    assert set(pushed.statuses.values()) == {"updated"}
    assert (api.posts, len(api.applied)) == (12, 12)


def test_update_only_looks_up_the_people_it_would_change(rig: Rig, unknown: FakeApi):
    """Who is found is another person: nothing is sent."""
    pushed = rig.push([person("Bob", "bob", P)], mode="update-only")
    assert pushed.statuses == {2: "rejected"}
    assert "prospect p1" in (pushed.messages[2] or "")
    assert unknown.posts == 0
    assert rig.push([person("Ann", None, P, title="Dr")], mode="update-only").statuses == {
        2: "updated"
    }


def test_a_person_without_a_contact_is_not_created_again(rig: Rig, api: FakeApi):
    """The API took over no contact of theirs, so that a change would find no one: it is rejected,
    unless they are found after all. Other names are other people."""
    api.drops_phones = True
    ann = {"firstName": "Ann", "phone": P}
    assert rig.push([ann]).statuses == {2: "created"}
    changed = rig.push([ann | {"title": "CEO"}, {"firstName": "Bob", "phone": Q}])
    assert changed.statuses == {2: "rejected", 3: "created"}
    assert "p1 has neither email nor phone" in str(changed.messages[2])
    assert rig.push([ann]).statuses == {2: "unchanged"}
    assert rig.push([{"firstName": "Cy", "phone": P}]).statuses == {2: "created"}
    assert names(api) == ["Ann", "Bob", "Cy"]
    api.drops_phones = False
    api.edit("p1", phone=P)
    assert rig.push([ann | {"title": "CEO"}], source="b.csv").statuses == {2: "updated"}
    assert names(api) == ["Ann", "Bob", "Cy"]
