"""How people are read before they are changed: not at all, one by one, or all by a scan."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from connector.upsert.looking import PageOfPeople, ProspectScan
from connector.upsert.outbox.outbox_schema import writes
from tests.pushes.fake_api import Crash, FakeApi
from tests.pushes.rig import Rig
from tests.unit.upsert_outbox.test_merging_pushes import ADA, hire, pull, push

_STALE_S = 1_000


def person(number: int) -> dict[str, str]:
    return {**ADA, "email": f"n{number}@x.org", "phone": f"+1415556{number:04}"}


def hire_some(api: FakeApi, count: int) -> list[dict[str, str]]:
    """People in HiringCenter, and the rows of a file that says the same of them."""
    rows = [person(number) for number in range(count)]
    for number, row in enumerate(rows):
        hire(api, f"p{number}", **row)
    return rows


def edited(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{**row, "title": "Broker"} for row in rows]


def may_scan(rig: Rig, api: FakeApi, *, pages: int | None, size: int = 5) -> None:
    rig.scan = ProspectScan(lambda: pages, lambda: api.scan(size))


def test_no_one_is_looked_up_while_the_copy_is_fresh(rig: Rig, api: FakeApi):
    """Five edits after a pull are five requests; once the copy is older than fifteen minutes, each
    person is looked up first, by the very contact that the write goes out with."""
    rows = hire_some(api, 8)
    pull(rig, api)
    push(rig, *rows)
    pushed = push(rig, *edited(rows[:5]), *rows[5:])
    assert (api.posts, api.gets, pushed.plan.looks) == (5, 0, 0)
    api.clock.advance(_STALE_S)
    pushed = push(rig, *edited(rows[:5]), *[{**row, "title": "Boss"} for row in rows[5:]])
    assert (api.posts, api.gets, pushed.plan.looks) == (8, 3, 3)
    assert {each["title"] for each in api.prospects.values()} == {"Broker", "Boss"}


def test_a_copy_that_ages_while_a_push_sends_is_not_relied_on(rig: Rig, api: FakeApi):
    """It is fresh for the first rows, and too old for the last."""
    rig.in_flight = 1
    rows = hire_some(api, 4)
    pull(rig, api)
    api.fate = lambda n: "ok" if n != 1 else _after(api)
    push(rig, *edited(rows))
    assert (api.posts, api.gets) == (4, 2)


def _after(api: FakeApi) -> str:
    api.clock.advance(_STALE_S)
    return "ok"


def test_a_person_we_have_changed_since_is_looked_up(rig: Rig, api: FakeApi):
    """The copy is fresh, but older than our own write: of two rows of one person, the second is
    merged with what the first has made of them."""
    (row,) = hire_some(api, 1)
    pull(rig, api)
    first = {name: value for name, value in row.items() if name != "company"}
    second = {name: value for name, value in row.items() if name != "title"}
    push(rig, {**first, "title": "Boss"}, {**second, "company": "New"})
    assert (api.posts, api.gets) == (2, 1)
    assert (api.prospects["p0"]["title"], api.prospects["p0"]["company"]) == ("Boss", "New")
    push(rig, {**row, "title": "Boss", "company": "Newer"}, source="other.csv")
    assert (api.posts, api.gets) == (3, 2)


def test_a_shared_contact_is_looked_at_however_fresh_the_copy_is(rig: Rig, api: FakeApi):
    """The API might change the other one: nothing is sent."""
    hire(api, "p1", phone=None)
    hire(api, "p2", phone=None)
    pull(rig, api)
    pushed = push(rig, {**ADA, "phone": None, "title": "Broker"})
    assert (pushed.statuses, api.posts) == ({2: "rejected"}, 0)


def test_a_new_contact_is_looked_up_however_fresh_the_copy_is(rig: Rig, api: FakeApi):
    """It may belong to a person who was added since."""
    (row,) = hire_some(api, 1)
    pull(rig, api)
    push(rig, row)
    push(rig, {**row, "phone": "+14155550177"})
    assert (api.posts, api.prospects["p0"]["phone"]) == (1, "+14155550177")
    assert api.gets > 0


def test_many_people_are_read_by_one_scan(rig: Rig, api: FakeApi):
    """More wait than a scan has pages: no one is looked up; fewer: no scan."""
    rows = hire_some(api, 20)
    pull(rig, api)
    push(rig, *rows)
    api.clock.advance(_STALE_S)
    may_scan(rig, api, pages=4)
    pushed = push(rig, *edited(rows[:5]), *rows[5:])
    assert set(pushed.statuses.values()) == {"updated", "unchanged"}
    assert (api.posts, api.gets, api.pages) == (5, 0, 4)
    api.clock.advance(_STALE_S)
    push(rig, *edited(rows[:9]), *rows[9:])
    assert (api.posts, api.gets, api.pages) == (9, 4, 4)


def test_a_scan_shows_edits_and_shared_contacts(rig: Rig, api: FakeApi):
    """The merge is done again with what it shows; a person who isn't alone with their contact is
    looked up, and left alone."""
    rows = hire_some(api, 10)
    pull(rig, api)
    push(rig, *rows)
    api.clock.advance(_STALE_S)
    api.edit("p0", company="Recruiter's", lastName="Lovelace")
    hire(api, "p10", email=rows[1]["email"], phone=rows[1]["phone"])
    may_scan(rig, api, pages=3)
    pushed = push(rig, *edited(rows))
    assert pushed.statuses[2] == "updated"
    assert api.prospects["p0"]["company"] == "Recruiter's"
    assert api.prospects["p0"]["lastName"] == "Lovelace"
    assert (pushed.statuses[3], api.posts, api.pages) == ("rejected", 9, 3)


def test_there_is_at_most_one_scan_in_fifteen_minutes(rig: Rig, api: FakeApi):
    """A slow push scans again when what it has read is too old, as long as that is cheaper."""
    rig.in_flight = 1
    rows = hire_some(api, 12)
    pull(rig, api)
    push(rig, *rows)
    api.clock.advance(_STALE_S)
    may_scan(rig, api, pages=3)
    api.fate = lambda n: _after(api) if n in (2, 9) else "ok"
    push(rig, *edited(rows))
    # three rows; nine wait: a scan; seven rows; two wait: each is looked up
    assert (api.posts, api.pages, api.gets) == (12, 6, 2)


@pytest.mark.parametrize("whole", [False, True])
def test_a_scan_that_is_not_complete_or_too_long_spares_no_look(
    rig: Rig, api: FakeApi, whole: bool
):
    """That no one else has their contacts isn't proven; and it isn't tried again."""
    rows = hire_some(api, 6)
    pull(rig, api)
    push(rig, *rows)
    api.clock.advance(_STALE_S)
    rig.scan = ProspectScan(lambda: 1 if not whole else 9, lambda: api.scan(5, is_whole=whole))
    push(rig, *edited(rows))
    assert (api.posts, api.gets) == (6, 6)
    assert api.pages == (0 if whole else 2)


@pytest.mark.parametrize(("page_s", "pages"), [(200, 4), (4, 20)], ids=["few pages", "many"])
def test_a_scan_that_takes_too_long_is_given_up(rig: Rig, api: FakeApi, page_s: float, pages: int):
    """What it shows would be old when it ends, and nothing is sent meanwhile: people are looked up
    instead, and no scan is begun for a while. How long one takes is seen from its first pages."""
    rows = hire_some(api, 130)
    pull(rig, api)
    push(rig, *rows)
    api.clock.advance(_STALE_S)

    def slow_scan() -> Iterator[PageOfPeople]:
        for page in api.scan(1):
            yield page
            api.clock.advance(page_s)

    rig.scan = ProspectScan(lambda: 125, slow_scan)
    push(rig, *edited(rows))
    assert (api.posts, api.gets, api.pages) == (130, 130, pages)


def test_without_rechecks_no_one_is_looked_up(rig: Rig, api: FakeApi):
    """The copy is relied on however old it is, and what was edited since is overwritten where the
    file changed it; nothing is sent that the file didn't change."""
    rows = hire_some(api, 3)
    pull(rig, api)
    push(rig, *rows)
    api.clock.advance(_STALE_S)
    api.edit("p0", company="Recruiter's")
    pushed = push(rig, *edited(rows), rechecks=False)
    assert (api.posts, api.gets, pushed.plan.looks) == (3, 0, 0)
    assert api.prospects["p0"]["company"] == "Recruiter's"
    assert rig.images(2)["p0"].read_ms is not None


def test_without_rechecks_a_new_contact_is_still_looked_up(rig: Rig, api: FakeApi):
    """Sent without a look, it might be another person's, or create one."""
    push(rig, ADA)
    hire(api, "p9", firstName="Bob", email="bob@x.org", phone="+14155550102")
    pushed = push(rig, {**ADA, "email": "bob@x.org"}, rechecks=False)
    assert (pushed.statuses, api.posts) == ({2: "rejected"}, 1)
    pushed = push(rig, {**ADA, "title": "Broker"}, rechecks=False)
    assert (pushed.statuses, api.posts) == ({2: "updated"}, 2)


def test_a_head_scan_after_our_write_shows_how_they_are_now(rig: Rig, api: FakeApi):
    """The last complete scan is older than our write; that their `updatedAt` is the answer's, or
    later, proves that they were read after it. An edit is reported, and stands."""
    (row,) = hire_some(api, 1)
    pull(rig, api)
    complete_ms = rig.pulled.complete_ms
    api.clock.advance(_STALE_S)
    push(rig, {**row, "title": "Broker"})
    api.edit("p0", title="Recruiter's")
    pull(rig, api)
    rig.pulled.complete_ms = complete_ms
    assert push(rig, {**row, "title": "Broker"}).plan.kept == 1
    api.edit("p0", title="Broker")
    pull(rig, api)
    rig.pulled.complete_ms = complete_ms
    assert push(rig, {**row, "title": "Broker"}).plan.kept == 0


def test_a_copy_from_the_future_is_not_fresh(rig: Rig, api: FakeApi):
    """The clock that pulls are timed by was set back since: how old the copy is isn't known."""
    (row,) = hire_some(api, 1)
    pull(rig, api)
    rig.pulled.complete_ms = api.now_ms() + 3_600_000
    push(rig, {**row, "title": "Broker"})
    assert (api.posts, api.gets) == (1, 1)


def test_an_edit_between_look_and_write_stands_where_the_file_changed_nothing(
    rig: Rig, api: FakeApi
):
    """Only what the file changed goes out, and what was there is kept as the look showed it."""
    (row,) = hire_some(api, 1)
    pull(rig, api)
    push(rig, row)
    api.clock.advance(_STALE_S)
    api.before_post = lambda _: api.edit("p0", company="Recruiter's", city="Bern")
    push(rig, {**row, "title": "Broker"})
    found = api.prospects["p0"]
    assert (found["title"], found["company"], found["city"]) == ("Broker", "Recruiter's", "Bern")
    assert rig.images(2)["p0"].before == {"title": "Agent"}
    assert push(rig, {**row, "title": "Broker"}).statuses == {2: "unchanged"}


def test_a_copy_that_is_published_while_a_push_sends_changes_nothing(rig: Rig, api: FakeApi):
    """Rows are sent by what they were planned with, or by what is read since."""
    rig.in_flight = 1
    rows = hire_some(api, 3)
    pull(rig, api)
    push(rig, *rows)

    def publish(sent: int) -> None:
        if sent == 1:
            api.edit("p2", company="Recruiter's")
            pull(rig, api)

    api.before_post = publish
    push(rig, *edited(rows))
    assert [each["title"] for each in api.prospects.values()] == ["Broker"] * 3
    assert api.prospects["p2"]["company"] == "Recruiter's"
    assert (api.posts, api.gets) == (3, 0)
    assert push(rig, *edited(rows)).plan.kept == 0  # it was read before our own write
    pull(rig, api)
    assert push(rig, *edited(rows)).plan.kept == 1


def test_a_person_changed_by_us_during_a_scan_is_looked_up(rig: Rig, api: FakeApi):
    """Two rows of one person: what the scan has shown is used for the first, and not again."""
    rig.in_flight = 1
    rows = hire_some(api, 6)
    pull(rig, api)
    push(rig, *rows)
    api.clock.advance(_STALE_S)
    may_scan(rig, api, pages=2)
    first = [{name: row[name] for name in row if name != "company"} for row in edited(rows)]
    second = {name: rows[0][name] for name in rows[0] if name != "title"} | {"company": "New"}
    push(rig, *first, second)
    assert (api.posts, api.pages, api.gets) == (7, 2, 1)
    assert (api.prospects["p0"]["title"], api.prospects["p0"]["company"]) == ("Broker", "New")


def test_what_was_read_of_a_person_is_dropped_with_their_write(rig: Rig, api: FakeApi):
    """The ledger holds it only while the write is open."""
    rows = hire_some(api, 2)
    pull(rig, api)
    api.fate = lambda n: "ok" if n == 0 else "crash before"
    rig.in_flight = 1
    with pytest.raises(Crash):
        push(rig, *edited(rows))
    query = sa.select(writes.c.state, writes.c.seen, writes.c.body).order_by(writes.c.id)
    with rig.database.read() as connection:
        closed, open_ = connection.execute(query).all()
    assert tuple(closed) == ("closed", None, None)
    assert open_.state == "sending"
    assert b"Ada" in open_.seen


def test_a_look_up_that_leaves_nothing_to_send_isnt_a_write(rig: Rig, api: FakeApi):
    """People are shown without `updatedAt`: what was kept is still reported by the same copy."""
    (row,) = hire_some(api, 1)
    api.shows_no_times = True
    push(rig, row)
    api.edit("p0", title="Recruiter's")
    del api.prospects["p0"]["updatedAt"]
    pull(rig, api)
    api.edit("p0", touch=False, company="Byte")
    api.clock.advance(_STALE_S)
    looked = push(rig, {**row, "company": "Byte"})
    assert (looked.statuses, looked.kept, api.gets) == ({2: "unchanged"}, 1, 1)
    assert push(rig, {**row, "company": "Byte"}).plan.kept == 1
    assert (api.posts, api.gets) == (1, 1)


def test_no_scan_is_made_for_people_who_are_looked_up_all_the_same(rig: Rig, api: FakeApi):
    """Labels that are added where the API replaces them: each person is read right before."""
    rows = hire_some(api, 6)
    for one in api.prospects.values():
        one["labels"] = ["by hand"]
    pull(rig, api)
    push(rig, *rows)
    api.clock.advance(_STALE_S)
    may_scan(rig, api, pages=2)
    pushed = push(rig, *({**row, "labels_add": ["vip"]} for row in rows))
    assert (api.posts, api.gets, api.pages) == (6, 6, 0)
    assert (pushed.plan.looks, pushed.plan.looks_alone) == (6, 6)
