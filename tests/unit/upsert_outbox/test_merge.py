"""What a push does to each field of a person: ours, base and theirs."""

from __future__ import annotations

from typing import Any

import pytest

from connector.upsert.outbox.matching import normal_value
from connector.upsert.outbox.merge import (
    NOTHING_REMEMBERED,
    UNKNOWN,
    FieldAction,
    FieldMerge,
    MergeRules,
    NotSendable,
    OwnWrite,
    Person,
    PersonMerge,
    Remembered,
    Row,
    Why,
    body_of_creation,
    body_of_update,
    has_changed,
    merge,
    new_base,
    new_shown,
    still_holds,
)


def printed(name: str, value: Any) -> tuple[str, str]:
    return name, str(normal_value(name, value))


def remembered(shown: dict[str, tuple[Any, Any]] | None = None, **base: Any) -> Remembered:
    """What was settled: a value of each field, or a set of several."""
    return Remembered(
        base={
            name: {printed(name, each) for each in (value if isinstance(value, set) else {value})}
            for name, value in base.items()
        },
        shown={
            name: (printed(name, wrote), printed(name, seen))
            for name, (wrote, seen) in (shown or {}).items()
        },
    )


def known(fresh: bool = False, **fields: Any) -> Person:
    return Person("p1", fields, fresh)


def merged(
    ours: Any,
    base: Remembered = NOTHING_REMEMBERED,
    theirs: Person | None = None,
    name: str = "title",
    **rules: Any,
) -> FieldMerge:
    (found,) = merge([Row({name: ours}, base)], theirs, MergeRules(**rules), printed).fields
    return found


# --- the table -----------------------------------------------------------------------------------


def test_equal_is_nothing_and_settled():
    """What HiringCenter has already isn't sent; it is base from now on."""
    found = merged("Agent", theirs=known(title="Agent"))
    assert (found.action, found.settles) == (FieldAction.EQUAL, True)


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("email", "Ada@Example.org", " ada@example.ORG"),
        ("phone", "+14155550101", "(415) 555-0101"),
        ("title", "Agent ", "Agent"),
        ("labels", ["b", "a"], ["a", "b"]),
        ("title", None, ""),
        ("labels", None, []),
    ],
)
def test_equality_is_normalized_as_the_api_does(name: str, ours: Any, theirs: Any):
    """Case of an address, spelling of a phone, spaces around text, the order of labels, empty."""
    assert merged(ours, theirs=known(**{name: theirs}), name=name).action is FieldAction.EQUAL


def test_a_value_as_the_api_rewrote_it_is_equal():
    """It drops a phone, or cuts a text: as long as ours is what was written, that isn't an edit."""
    base = remembered(title="Agent~", shown={"title": ("Agent~", "Agent")})
    found = merged("Agent~", base, known(title="Agent"))
    assert (found.action, found.why, found.reported) == (FieldAction.EQUAL, Why.SHOWN, False)


def test_what_the_api_shows_hides_no_edit_of_another_value():
    """Two rows with two values: how one was shown doesn't excuse the other."""
    base = remembered(title={"Agent~", "Boss"}, shown={"title": ("Agent~", "Agent")})
    assert merged("Boss", base, known(title="Agent")).action is FieldAction.KEEP


def test_unchanged_in_the_input_is_kept():
    """A recruiter's correction stands, and people see that it does."""
    found = merged("Agent", remembered(title="Agent"), known(title="Broker"))
    assert (found.action, found.why, found.reported) == (FieldAction.KEEP, Why.UNCHANGED, True)


def test_unchanged_is_kept_in_silence_where_theirs_is_unknown():
    """Nothing is known of a value that was never read."""
    found = merged("Agent", remembered(title="Agent"))
    assert (found.action, found.reported, found.theirs) == (FieldAction.KEEP, False, UNKNOWN)


def test_unknown_is_not_empty():
    """A person who was read without the field's key: only ours and base decide."""
    found = merged("Agent", theirs=known(company="Acme"))
    assert (found.action, found.theirs) == (FieldAction.SEND, UNKNOWN)


def test_changed_in_the_input_is_sent():
    """The cell isn't what was settled."""
    found = merged("Broker", remembered(title="Agent"), known(title="Agent"))
    assert (found.action, found.why, found.replaces_edit) == (FieldAction.SEND, Why.CHANGED, False)


def test_a_change_that_replaces_an_edit_says_so():
    """Both sides changed: the input wins, and the result names the edit."""
    found = merged("Broker", remembered(title="Agent"), known(title="Boss"))
    assert (found.action, found.replaces_edit) == (FieldAction.SEND, True)


def test_a_value_as_the_api_rewrote_it_isnt_an_edit():
    """A change of a cell whose last value was cut replaces no edit."""
    base = remembered(title="Agent~", shown={"title": ("Agent~", "Agent")})
    assert not merged("Broker", base, known(title="Agent")).replaces_edit


def test_a_first_push_sends_what_differs():
    """Without any base, what differs from HiringCenter is sent."""
    assert merged("Agent", theirs=known(title="Broker")).action is FieldAction.SEND


def test_a_changed_cell_is_settled_by_equality_only_with_a_fresh_read():
    """An old copy may show what was changed again since."""
    base = remembered(title="Agent")
    stale = merged("Broker", base, known(title="Broker"))
    fresh = merged("Broker", base, known(title="Broker", fresh=True))
    assert (stale.action, stale.settles) == (FieldAction.EQUAL, False)
    assert (fresh.action, fresh.settles) == (FieldAction.EQUAL, True)


def test_a_row_without_the_field_says_nothing():
    """An absent or empty cell leaves the field alone."""
    found = merge([Row({"title": "Agent"})], known(company="Acme"), MergeRules(), printed)
    assert [each.name for each in found.fields] == ["title"]


def test_an_explicit_null_is_merged_like_any_value():
    """With --clear-empty: equal where it is empty, kept where it was settled, else sent."""
    assert merged(None, theirs=known(title="")).action is FieldAction.EQUAL
    assert merged(None, remembered(title=None), known(title="Boss")).action is FieldAction.KEEP
    assert merged(None, remembered(title="Agent"), known(title="Agent")).action is FieldAction.SEND


def test_update_and_mute_webhook_are_no_fields():
    """How the API is to treat a write isn't merged."""
    assert merge([Row({"update": True, "muteWebhook": True})], None, MergeRules(), printed) == (
        PersonMerge(())
    )


# --- several rows, several sources ---------------------------------------------------------------


def test_of_several_rows_the_last_that_changed_speaks():
    """Base is a set where several rows speak for one person."""
    base = remembered(title={"A", "B"})
    rows = [Row({"title": each}, base) for each in ("C", "D", "A")]
    (found,) = merge(rows, known(title="B"), MergeRules(), printed).fields
    assert (found.action, found.ours) == (FieldAction.SEND, "D")


def test_rows_that_disagree_come_to_rest():
    """Two rows that are as they were when they were settled send nothing, and are reported."""
    base = remembered(title={"A", "B"})
    rows = [Row({"title": each}, base) for each in ("A", "B")]
    (found,) = merge(rows, known(title="B"), MergeRules(), printed).fields
    assert (found.action, found.disagree) == (FieldAction.EQUAL, True)


def test_rows_that_were_settled_apart_have_a_base_each():
    """Two entries whose people were merged: each cell is measured by its own."""
    rows = [
        Row({"title": "A"}, remembered(title="A")),
        Row({"title": "A"}, remembered(title="B")),
    ]
    (found,) = merge(rows, known(title="B"), MergeRules(), printed).fields
    assert (found.action, found.ours) == (FieldAction.SEND, "A")


def test_a_new_source_takes_over_what_another_one_settled():
    """A renamed or dated file with the same content as before sends nothing."""
    base = Remembered(others={"title": {printed("title", "Agent")}})
    found = merged("Agent", base, known(title="Broker"))
    assert (found.action, found.why, found.settles) == (FieldAction.KEEP, Why.TAKEN_OVER, True)
    assert found.reported


def test_a_new_source_sends_what_no_other_one_settled():
    """The cells of a dated file that changed."""
    base = Remembered(others={"title": {printed("title", "Agent")}})
    assert merged("Broker", base, known(title="Agent")).action is FieldAction.SEND


def test_a_source_with_a_base_of_its_own_takes_nothing_over():
    """Its cell changed, whatever another source says."""
    base = Remembered(
        base={"title": {printed("title", "Agent")}}, others={"title": {printed("title", "Broker")}}
    )
    assert merged("Broker", base, known(title="Agent")).action is FieldAction.SEND


# --- options -------------------------------------------------------------------------------------


def test_restore_sends_what_is_known_to_differ():
    """What is unknown stays kept."""
    base = remembered(title="Agent")
    assert merged("Agent", base, known(title="Boss"), restore=True).why is Why.RESTORED
    assert merged("Agent", base, None, restore=True).action is FieldAction.KEEP


def test_restore_leaves_a_disagreement_between_sources():
    """What another source's last write showed isn't put back: both would do so for ever."""
    base = Remembered(
        base={"title": {printed("title", "Agent")}}, others={"title": {printed("title", "Boss")}}
    )
    found = merged("Agent", base, known(title="Boss"), restore=True)
    assert (found.action, found.why, found.reported) == (FieldAction.KEEP, Why.DISAGREES, True)


def test_force_sends_everything():
    """Equal and kept fields too."""
    base = remembered(title="Agent")
    assert merged("Agent", base, known(title="Agent"), force=True).action is FieldAction.SEND


def test_fill_empty_needs_a_fresh_read_that_shows_nothing():
    """Not known: left out and reported, settled by nothing. A value is there: kept."""
    policy = {"policy": {"title": "fill_empty"}}
    for theirs in (None, known(title=""), known(company="Acme", fresh=True)):
        found = merged("Agent", theirs=theirs, **policy)
        assert (found.action, found.why, found.settles) == (
            FieldAction.LEAVE_OUT,
            Why.NOT_READ,
            False,
        )
        assert found.reported
    assert (
        merged("Agent", theirs=known(title=None, fresh=True), **policy).action is FieldAction.SEND
    )
    found = merged("Agent", theirs=known(title="Boss", fresh=True), **policy)
    assert (found.action, found.why, found.settles) == (FieldAction.KEEP, Why.FILLED, True)


def test_fill_empty_for_all_leaves_the_policy_of_a_field():
    """`--fill-empty` is the default of the fields that the mapping doesn't name."""
    rules = MergeRules(default_policy="fill_empty", policy={"title": "overwrite"})
    rows = [Row({"title": "Agent", "company": "Acme"})]
    found = merge(rows, known(title="Boss", company="X", fresh=True), rules, printed)
    assert [each.name for each in found.to_send] == ["title"]


def test_never_is_not_sent():
    """It settles as kept where a value is there; --force doesn't overrule it."""
    policy = {"policy": {"title": "never"}}
    found = merged("Agent", theirs=known(title="Boss"), **policy, force=True)
    assert (found.action, found.settles) == (FieldAction.KEEP, True)
    found = merged("Agent", **policy)
    assert (found.action, found.settles) == (FieldAction.LEAVE_OUT, False)


def test_a_policy_only_narrows():
    """What the merge keeps isn't sent since the field is empty."""
    found = merged(
        "Agent",
        remembered(title="Agent"),
        known(title="", fresh=True),
        policy={"title": "fill_empty"},
    )
    assert (found.action, found.why) == (FieldAction.KEEP, Why.UNCHANGED)


def test_an_upgrade_keeps_what_differs_or_is_unknown():
    """0.1 kept no base: nothing is sent, all of it is reported and becomes base."""
    for theirs in (None, known(title="Boss")):
        found = merged("Agent", theirs=theirs, adopts=True)
        assert (found.action, found.reported, found.settles) == (FieldAction.KEEP, True, True)


def test_an_upgrade_adopts_no_row_that_has_a_base():
    """Where one field of a row has a base, another one without is new in the input."""
    rows = [Row({"title": "Agent", "company": "Acme"}, remembered(title="Agent"))]
    found = merge(rows, known(title="Agent", company="X"), MergeRules(adopts=True), printed)
    assert [each.name for each in found.to_send] == ["company"]


# --- labels --------------------------------------------------------------------------------------


def test_labels_means_exactly_these():
    """Labels that a recruiter set go, and the merge shows which."""
    found = merged(["a"], theirs=known(labels=["a", "b"]), name="labels")
    assert (found.action, found.theirs) == (FieldAction.SEND, ["a", "b"])


def test_labels_add_leaves_others_alone():
    """Only those that are missing are sent, with all that are there."""
    rows = [Row({"labels_add": ["a", "c"]})]
    theirs = known(labels=["a", "b"], email="a@x.org", fresh=True)
    found = merge(rows, theirs, MergeRules(), printed)
    assert body_of_update(found, theirs).payload["labels"] == ["a", "b", "c"]


def test_a_label_taken_off_by_hand_stays_off():
    """Also when another label is added to the cell."""
    rows = [Row({"labels_add": ["a", "c"]}, remembered(labels_add={"a"}))]
    theirs = known(labels=["b"], email="a@x.org", fresh=True)
    found = merge(rows, theirs, MergeRules(), printed)
    assert body_of_update(found, theirs).payload["labels"] == ["b", "c"]
    rows = [Row({"labels_add": ["a"]}, remembered(labels_add={"a"}))]
    (kept,) = merge(rows, theirs, MergeRules(), printed).fields
    assert (kept.action, kept.reported) == (FieldAction.KEEP, True)


def test_labels_remove_takes_only_these_off():
    """What isn't there is equal."""
    rows = [Row({"labels_remove": ["a", "x"]})]
    theirs = known(labels=["a", "b"], email="a@x.org", fresh=True)
    found = merge(rows, theirs, MergeRules(), printed)
    assert body_of_update(found, theirs).payload["labels"] == ["b"]
    assert merged(["x"], theirs=theirs, name="labels_remove").action is FieldAction.EQUAL


def test_an_api_that_merges_labels_gets_only_what_is_added():
    """What is there stays anyway."""
    rows = [Row({"labels_add": ["a", "c"]})]
    theirs = known(labels=["a", "b"], email="a@x.org", fresh=True)
    found = merge(rows, theirs, MergeRules(labels_merge=True), printed)
    assert body_of_update(found, theirs, labels_merge=True).payload["labels"] == ["c"]


@pytest.mark.parametrize(("name", "ours"), [("labels_remove", ["a"]), ("labels", ["b"])])
def test_an_api_that_merges_labels_removes_none(name: str, ours: list[str]):
    """The row is rejected, saying why."""
    theirs = known(labels=["a", "b"], email="a@x.org", fresh=True)
    found = merge([Row({name: ours})], theirs, MergeRules(labels_merge=True), printed)
    with pytest.raises(NotSendable, match="only adds labels"):
        body_of_update(found, theirs, labels_merge=True)


def test_labels_are_not_added_to_unknown_ones():
    """The API may replace them all."""
    theirs = known(email="a@x.org", fresh=True)
    found = merge([Row({"labels_add": ["a"]})], theirs, MergeRules(), printed)
    with pytest.raises(NotSendable, match="isn't known"):
        body_of_update(found, theirs)


# --- what goes out -------------------------------------------------------------------------------


def test_names_and_contact_go_out_as_hiringcenter_shows_them():
    """Only what changed is the input's; the API asks for the names, and finds by the contact."""
    says = {"firstName": "Ada", "lastName": "Lovelace", "email": "ada@x.org", "title": "Agent"}
    base = remembered(firstName="Ada", lastName="Lovelace", email="ada@x.org", title="old")
    theirs = known(firstName="Ada M.", lastName="King", email="king@x.org", phone="1", title="old")
    body = body_of_update(merge([Row(says, base)], theirs, MergeRules(), printed), theirs)
    assert body.payload == {
        "firstName": "Ada M.", "lastName": "King", "email": "king@x.org", "title": "Agent",
        "update": True,
    }  # fmt: skip
    assert body.contact == ("email", "king@x.org")


def test_an_input_without_names_sends_those_of_the_person():
    """An empty or missing name column says nothing."""
    theirs = known(firstName="Ada", lastName="King", phone="+14155550101", title="old")
    found = merge([Row({"title": "Agent"})], theirs, MergeRules(), printed)
    assert body_of_update(found, theirs).payload["lastName"] == "King"


def test_a_new_contact_is_named_for_a_look_up():
    """No one else may have it; the person is found by the other one."""
    theirs = known(firstName="Ada", lastName="King", email="old@x.org", phone="+14155550101")
    found = merge([Row({"email": "new@x.org"})], theirs, MergeRules(), printed)
    body = body_of_update(found, theirs)
    assert (body.contact, body.new_contacts) == (
        ("phone", "+14155550101"),
        (("email", "new@x.org"),),
    )


def test_an_only_contact_cannot_be_changed():
    """The API would find no one by the new one, and create another person."""
    theirs = known(firstName="Ada", lastName="King", email="old@x.org", phone=None)
    found = merge([Row({"email": "new@x.org"})], theirs, MergeRules(), printed)
    with pytest.raises(NotSendable, match="finds people by email or phone"):
        body_of_update(found, theirs)


def test_a_person_without_contact_cannot_be_changed():
    """Nothing identifies the person to change."""
    theirs = known(firstName="Ada", lastName="King", email=None, phone=None)
    found = merge([Row({"title": "Agent"})], theirs, MergeRules(), printed)
    with pytest.raises(NotSendable, match="neither email nor phone"):
        body_of_update(found, theirs)


def test_an_unknown_person_is_created_whole_and_never_matched():
    """`update` is false; nulls clear nothing."""
    ada = {"firstName": "Ada", "lastName": "King", "email": "a@x.org", "title": "Agent"}
    says = {**ada, "company": None, "update": True}
    assert body_of_creation(says, MergeRules()) == {**ada, "update": False}


def test_merging_leaves_a_deleted_person_alone_while_the_row_is_unchanged():
    """Only a changed row creates them again."""
    base = remembered(title="Agent")
    assert not has_changed([Row({"title": "Agent", "update": True}, base)], printed)
    assert has_changed([Row({"title": "Broker"}, base)], printed)
    taken_over = Remembered(others={"title": {printed("title", "Agent")}})
    assert not has_changed([Row({"title": "Agent"}, taken_over)], printed)


# --- settling ------------------------------------------------------------------------------------


def test_every_cell_of_the_rows_is_settled():
    """Not only what was sent; several rows make a set."""
    rows = [Row({"title": "A", "company": "X"}), Row({"title": "B"})]
    assert new_base(rows, {"title", "company"}, printed) == {
        "title": {printed("title", "A"), printed("title", "B")},
        "company": {printed("company", "X")},
    }


def test_what_is_not_settled_keeps_its_base():
    """A field that was left out, or equal in an old copy."""
    assert new_base([Row({"title": "A", "company": "X"})], {"title"}, printed).keys() == {"title"}


def test_only_what_was_sent_is_noted_as_shown():
    """What the answer shows of other fields may be a recruiter's edit."""
    answer = {"title": "Agent", "company": "Acme", "phone": None}
    sent = {"title": "Agent~", "company": "Acme"}
    assert new_shown(sent, answer, printed) == {
        "title": (printed("title", "Agent~"), printed("title", "Agent"))
    }


# --- what is known -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read_ms", "updated_ms", "own", "holds"),
    [
        (10, 5, None, True),
        (10, 5, OwnWrite(9), True),
        (9, 5, OwnWrite(9), False),
        (8, 7, OwnWrite(9, updated_at_ms=7, before_ms=5), True),
        (8, 6, OwnWrite(9, updated_at_ms=7, before_ms=5), False),
        (8, 7, OwnWrite(9, updated_at_ms=7, before_ms=7), False),
        (8, 7, OwnWrite(9, updated_at_ms=7), False),
        (None, None, OwnWrite(9, updated_at_ms=7, before_ms=5), False),
    ],
    ids=[
        "never written", "read after the answer", "read with the answer",
        "updatedAt has reached the answer's", "updatedAt is older", "the write didn't move it",
        "nothing to compare with", "nothing known",
    ],
)  # fmt: skip
def test_a_read_holds_if_it_was_begun_after_our_last_write(
    read_ms: int | None, updated_ms: int | None, own: OwnWrite | None, holds: bool
):
    """`updatedAt` stands for that only where our own write has moved it."""
    assert still_holds(read_ms, updated_ms, own) is holds
