"""Plan files: what is read is what was planned; anything else is refused, and says why."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import orjson
import pytest

from connector.errors import PlanRefused, UsageError
from connector.upsert.outbox.entries import Entry, Settlement
from connector.upsert.outbox.matching import Hasher
from connector.upsert.outbox.merge import (
    UNKNOWN,
    FieldAction,
    FieldMerge,
    MergeRules,
    PersonMerge,
    Why,
)
from connector.upsert.outbox.outbox import PROSPECTS, Write
from connector.upsert.outbox.person_plan import PushOptions, RowPlan
from connector.upsert.plan_file import PlanFile, PlanHeader, PlanWriter, open_plan

HASHER = Hasher(b"s" * 32)
OPTIONS = PushOptions(
    "run-1", "file /people.csv", "update-only", rules=MergeRules(policy={"title": "never"})
)
URL = "https://api.example.com/v2"
WRITE = Write(
    "run-1", "file /people.csv", 7, 0, PROSPECTS, -12, 2**62, None, None, b"\x00" * 16,
    b'{"firstName":"Zo\xc3\xab","score":1.0,"labels":["a",null]}', b'{"First":"Zo\xc3\xab"}',
    "a warning", "p1", settles=b"\x01\xff", exported=b"\x02\xfe",
)  # fmt: skip
NOTE = WRITE._replace(position=1, kind="notes", body=b'{"body":"hi"}', settles=None)
FIELDS = PersonMerge(
    (
        FieldMerge("title", FieldAction.SEND, Why.CHANGED, "new", "old", replaces_edit=True),
        FieldMerge("city", FieldAction.SEND, Why.CHANGED, None, UNKNOWN, settles=False),
        FieldMerge("company", FieldAction.KEEP, Why.UNCHANGED, "a", None, reported=True),
    )
)
SETTLEMENT = Settlement(Entry(5, 0, "p1", 1, b"n" * 12, None, b"c" * 14, 1_000), (5, 6))
UPDATE = RowPlan(
    WRITE, [NOTE], "update", "p1", FIELDS, looks=True, reason=None,
    settlement=SETTLEMENT,
)  # fmt: skip
SETTLED = RowPlan(
    WRITE._replace(row_number=8), (), "unchanged", "p1", None, looks=False, reason="said",
    settlement=SETTLEMENT,
)  # fmt: skip
UNCHANGED = RowPlan(
    WRITE._replace(row_number=9), (), "unchanged", "p1", None, looks=False, reason=None
)


def written(path: Path, rows: Sequence[RowPlan] = (UPDATE, SETTLED, UNCHANGED)) -> Path:
    header = PlanHeader.new(
        OPTIONS, HASHER, scope=42, base_url=URL, account="north", title="people.csv",
        planned_ms=1_000_000, created_at="2026-03-01T12:00:00Z",
    )  # fmt: skip
    with PlanWriter(path, header, HASHER) as plan:
        for row in rows:
            plan.add(row)
        plan.sign({"rows": len(rows)})
    return path


def opened(content: bytes) -> PlanFile:
    return PlanFile("people.hcplan", BytesIO(content), len(content), HASHER)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return written(tmp_path / "people.hcplan")


def test_what_is_read_is_what_was_planned(plan: Path):
    """Every fact of a row that sends something, bytes and types included."""
    with open_plan(plan, HASHER) as found:
        sent, _ = found.rows()
        assert sent == RowPlan(
            WRITE._replace(run_id=""), [NOTE._replace(run_id="", row_values=WRITE.row_values)],
            "update", "p1", FIELDS, looks=True, reason=None, settlement=SETTLEMENT,
        )  # fmt: skip
        assert (found.counts, found.records) == ({"rows": 3}, 2)
        assert found.header.title == "people.csv"


def test_every_part_of_a_planned_write_is_kept(plan: Path):
    """But for what the run that sends it decides, and what was read for a push at that time: an
    apply looks at everyone."""
    decided = {
        "run_id", "creates", "id", "idempotency_key", "sent_ms", "sent_server_ms", "guard", "seen",
        "seen_ms",
    }  # fmt: skip
    with open_plan(plan, HASHER) as found:
        sent, _ = found.rows()
    for name in set(Write._fields) - decided:
        assert getattr(WRITE, name) is not None or name in ("phone_alias", "row_alias"), name
        assert getattr(sent.write, name) == getattr(WRITE, name), name


def test_a_row_that_only_settles_is_kept_without_its_values(plan: Path):
    """What it says isn't needed any more. A row with nothing to settle isn't kept at all."""
    with open_plan(plan, HASHER) as found:
        _, settled = found.rows()
    assert (settled.row_number, settled.outcome, settled.reason) == (8, "unchanged", "said")
    assert settled.settlement == SETTLEMENT
    assert (settled.write.body, settled.write.row_values) == (b"", None)


def test_the_options_of_the_push_come_back(plan: Path):
    """With those of the run that applies it in place of the planning run's own."""
    with open_plan(plan, HASHER) as found:
        options = found.header.push_options(run_id="run-2", retention_days=5)
    assert options == PushOptions(
        "run-2", OPTIONS.source, "update-only", rules=OPTIONS.rules, retention_days=5
    )


def test_it_is_for_its_owner_alone(plan: Path):
    """Whatever the umask: it holds names and contacts."""
    assert stat.S_IMODE(plan.stat().st_mode) == 0o600


def test_any_altered_byte_is_refused(plan: Path):
    """Wherever it is: header, records, counts or the MAC itself."""
    whole = plan.read_bytes()
    for at in range(len(whole)):
        altered = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        with pytest.raises(PlanRefused):
            opened(altered)


def test_a_plan_that_is_cut_or_longer_is_refused(plan: Path):
    """At any byte, also where a whole record is missing."""
    whole = plan.read_bytes()
    for at in range(len(whole)):
        with pytest.raises(PlanRefused):
            opened(whole[:at])
    for more in (b"\n", b"x", whole):
        with pytest.raises(PlanRefused, match="altered"):
            opened(whole + more)


def test_a_plan_of_another_ledger_is_refused(plan: Path):
    """Its MAC proves nothing there."""
    with pytest.raises(PlanRefused, match="another ledger"):
        open_plan(plan, Hasher(b"t" * 32))


def test_a_plan_of_another_account_or_api_is_refused(plan: Path):
    """The error names the account that it was made for."""
    with open_plan(plan, HASHER) as found:
        found.check_account(42, URL)
        with pytest.raises(PlanRefused, match="another account \\('north'\\)"):
            found.check_account(43, URL)
        with pytest.raises(PlanRefused, match=f"is for {URL}, not for http://127"):
            found.check_account(42, "http://127.0.0.1:1/v2")


def test_a_plan_that_is_too_old_is_refused(plan: Path):
    """By the ledger's clock, on which machines agree."""
    with open_plan(plan, HASHER) as found:
        found.check_age(1_060_000, max_age_s=60)
        with pytest.raises(PlanRefused, match="--max-age"):
            found.check_age(1_060_001, max_age_s=60)


def test_a_plan_with_facts_that_are_no_longer_written_is_read(plan: Path):
    """It is of the same format, and signed."""
    header, *records, _ = plan.read_bytes().splitlines(keepends=True)
    facts = orjson.loads(header) | {"copy_ms": None, "connector": "0.2.0"}
    signed = b"".join([orjson.dumps(facts), b"\n", *records])
    mac = HASHER.new_mac()
    mac.update(signed)
    with opened(signed + b"mac:" + mac.hexdigest().encode() + b"\n") as found:
        assert found.header.title == "people.csv"
        assert [each.row_number for each in found.rows()] == [7, 8]


def test_a_plan_of_another_format_is_refused(plan: Path):
    """It says so, whatever else that format changes."""
    plan.write_bytes(b'{"hiringcenter_plan":2,"whatever":[]}\nbinary \x00\xff')
    with pytest.raises(PlanRefused, match="another version"):
        open_plan(plan, HASHER)


def test_an_option_that_this_version_does_not_know_is_refused(plan: Path):
    """A push without it would do something else."""
    with open_plan(plan, HASHER) as found:
        options = {**found.header.options, "new_in_0_3": True}
        header = PlanHeader(**{**vars(found.header), "options": options})
    with pytest.raises(PlanRefused, match="another version"):
        header.push_options(run_id="run-2")


@pytest.mark.parametrize("content", [b"", b"email,first name\na@b.c,Ada\n", b"\x00" * 100_000])
def test_another_file_isnt_a_plan(tmp_path: Path, content: bytes):
    """Whatever it is called."""
    path = tmp_path / "people.hcplan"
    path.write_bytes(content)
    with pytest.raises(PlanRefused, match="isn't a plan"):
        open_plan(path, HASHER)


def test_a_plan_path_that_isnt_a_file_is_refused_at_once(tmp_path: Path):
    """A folder, nothing at all, a pipe without a writer."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "pipe"):
        with pytest.raises(PlanRefused):
            open_plan(path, HASHER)


def test_a_huge_file_is_refused_without_being_read(tmp_path: Path):
    """A sparse file costs nothing to make."""
    path = tmp_path / "huge.hcplan"
    path.touch()
    os.truncate(path, 2**34 + 1)
    with pytest.raises(PlanRefused, match="larger than any plan"):
        open_plan(path, HASHER)


def test_a_header_without_end_is_refused(tmp_path: Path):
    """Of an unproven file, the first line alone is read, and no more of it than a header has."""
    path = tmp_path / "long.hcplan"
    path.write_bytes(b'{"hiringcenter_plan":1,' + b" " * 1_000_000)
    with pytest.raises(PlanRefused, match="altered"):
        open_plan(path, HASHER)


def test_a_file_that_is_rewritten_while_it_is_read_is_refused(plan: Path):
    """Its MAC is checked again with what was really read."""
    whole = plan.read_bytes()
    with open_plan(plan, HASHER) as found:
        plan.write_bytes(whole.replace(b'"new"', b'"bad"'))
        rows = found.rows()
        with pytest.raises(PlanRefused, match="altered"):
            list(rows)


def test_a_plan_that_fails_leaves_nothing(tmp_path: Path):
    """Neither a half of it nor another file in place of an earlier plan."""
    path = written(tmp_path / "people.hcplan", [UPDATE])
    before = path.read_bytes()
    with PlanWriter(path, _header(path), HASHER) as plan:
        plan.add(SETTLED)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def _header(path: Path) -> PlanHeader:
    with open_plan(path, HASHER) as plan:
        return plan.header


def test_only_an_earlier_plan_is_overwritten(plan: Path):
    """A mistyped --out, and a link, leave what is there."""
    header = _header(plan)
    other = plan.with_name("people.csv")
    other.write_text("email\na@b.c\n")
    link = plan.with_name("link.hcplan")
    link.symlink_to(plan)
    for path, why in ((other, "isn't a plan"), (link, "is a link"), (plan.parent, "isn't a plan")):
        with pytest.raises(UsageError, match=why):
            PlanWriter(path, header, HASHER)
    assert other.read_text() == "email\na@b.c\n"
    written(plan, [SETTLED])
    with open_plan(plan, HASHER) as found:
        assert found.records == 1


def test_no_secret_is_in_a_plan(plan: Path):
    """The ledger's secret can't be read from what it has signed."""
    assert b"s" * 32 not in plan.read_bytes()
    assert orjson.loads(plan.read_bytes().splitlines()[0])["ledger"]
