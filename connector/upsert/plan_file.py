"""The plan file: what a push would do with each row, to be sent exactly like that by `apply`.

    {"hiringcenter_plan": 1, …}     the header, a `PlanHeader`
    {"row": 7, "outcome": …}        one line for each row that has something to send or to settle
    {"counts": {…}, "records": 12}  how many rows there were, by outcome
    mac:<64 hex digits>             of every byte above, keyed with the ledger's secret

It holds names and contacts, so it is private (0600), and it is written under its name only when it
is complete. A reader trusts nothing but the MAC: until that is checked, no more than the first line
is looked at, and a file of any size is read in small pieces. The MAC is checked again while records
are read, since the file may be rewritten in between.

A row is read as the `RowPlan` that it was, but for this: its writes have no `run_id` and no id;
of one that sends nothing, nothing is kept in clear (`body` is empty, `row_values` are None), and
`merged.fields` are those that are reported as kept.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

import orjson

from connector.errors import PlanRefused, UsageError
from connector.upsert.outbox.entries import Settlement
from connector.upsert.outbox.forgotten import NONE_FORGOTTEN
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

FORMAT = 1
_MAGIC = b'{"hiringcenter_plan":'
_MAC, _MAC_BYTES = b"mac:", 69  # with its digits and the end of the line
_HEADER_BYTES = 64 * 1024
_LINE_BYTES = 64 * 1024**2
_FILE_BYTES = 16 * 1024**3
_CHUNK_BYTES = 1024**2
_OWN_OPTIONS = (
    "run_id", "retry_total_s", "retention_days", "destination", "to_apply", "forgotten",
)  # fmt: skip


@dataclass(frozen=True)
class PlanHeader:
    """What a plan is of. ledger: distinguishes ledgers, without revealing their secret.
    scope: stands for the account, on this ledger. account: its name in the settings, if it has one.

    title: what people call the input. planned_ms: when planning began, by the ledger's clock;
    created_at: the same for people, UTC. options: of the push, without those of a single run.
    """

    plan_id: str
    ledger: str
    scope: int
    base_url: str
    account: str | None
    title: str
    source: str
    planned_ms: int
    created_at: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def new(cls, options: PushOptions, hasher: Hasher, **facts: Any) -> Self:
        """The header of a plan that is made with these options. facts: the other fields."""
        given = asdict(replace(options, forgotten=NONE_FORGOTTEN))
        kept = {name: value for name, value in given.items() if name not in _OWN_OPTIONS}
        return cls(
            plan_id=secrets.token_hex(12),
            ledger=_ledger_of(hasher),
            source=options.source,
            options=kept,
            **facts,
        )

    def push_options(self, **own: Any) -> PushOptions:
        """The options that the plan was made with. own: those of the run that applies it.

        Raises:
            PlanRefused: this version doesn't know one of them.
        """
        known = {each.name for each in fields(PushOptions)}
        rules = {each.name for each in fields(MergeRules)}
        kept = {**self.options, **own}
        if not known >= kept.keys() or not rules >= kept["rules"].keys():
            raise _another_version("the plan")
        return PushOptions(**{**kept, "rules": MergeRules(**kept["rules"])})


_FACTS = tuple(each.name for each in fields(PlanHeader))


def _ledger_of(hasher: Hasher) -> str:
    mac = hasher.new_mac()
    mac.update(b"which ledger")
    return mac.hexdigest()[:16]


def _another_version(name: str) -> PlanRefused:
    return PlanRefused(
        name,
        "was written by another version of the connector, whose plans this one can't read. Make "
        "the plan again with this version, or apply it where it was made.",
    )


# --- writing ----------------------------------------------------------------------------------


class PrivateFile:
    """A file for its owner alone (0600) that gets its name by `finish`; left before that, nothing
    is left of it.

    begins: what earlier files of this kind begin with; only these are replaced, so that a mistyped
    path overwrites nothing, whether directly or through a link. what, option: of messages.

    Raises:
        UsageError: the file can't be written, or another kind of file is there.
    """

    def __init__(self, path: Path, *, begins: bytes, what: str, option: str) -> None:
        self.path, self._what, self._option = path, what, option
        self._advice = f"Name another file: {option} F."
        self._check_target(begins)
        self._new = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._file: BinaryIO | None = os.fdopen(os.open(self._new, flags, 0o600), "wb")
        except OSError as error:
            raise self._failed(error) from error

    def _check_target(self, begins: bytes) -> None:
        path = self.path
        if path.is_symlink():
            raise UsageError(f"{path} is a link, which isn't followed. {self._advice}")
        try:
            is_file = stat.S_ISREG(os.lstat(path).st_mode)  # no device, and no pipe
            is_ours = is_file and _head_of(path, len(begins)) in (begins, b"")
        except FileNotFoundError:
            return
        except OSError as error:
            raise UsageError(f"{path}: can't be read: {error.strerror}. {self._advice}") from error
        if not is_ours:
            raise UsageError(f"{path} exists and isn't {self._what}. {self._advice}")

    def write(self, content: bytes) -> None:
        assert self._file is not None
        try:
            self._file.write(content)
        except OSError as error:
            raise self._failed(error) from error

    def finish(self) -> None:
        """Give the file its name."""
        assert self._file is not None
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._new.replace(self.path)
        except OSError as error:
            raise self._failed(error) from error
        self._file = None

    def _failed(self, error: OSError) -> UsageError:
        return UsageError(
            f"{self.path}: {self._what} can't be written: {error.strerror}. Check its folder and "
            f"the free space, or name another file: {self._option} F."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):
                self._new.unlink()


class PlanWriter(PrivateFile):
    """Writes a plan file: `add` each row, then `sign`."""

    def __init__(self, path: Path, header: PlanHeader, hasher: Hasher) -> None:
        super().__init__(path, begins=_MAGIC, what="a plan", option="--out")
        self.records, self._mac = 0, hasher.new_mac()
        self._line({"hiringcenter_plan": FORMAT, **asdict(header)})

    def add(self, planned: RowPlan) -> None:
        """Append a row, if it has something to send or to settle."""
        if planned.sends or planned.settlement is not None:
            self.records += 1
            self._line(_record_of(planned))

    def sign(self, counts: Mapping[str, int]) -> None:
        """All rows are there: give the file its name. counts: rows by outcome."""
        self._line({"counts": counts, "records": self.records})
        self.write(_MAC + self._mac.hexdigest().encode() + b"\n")
        self.finish()

    def _line(self, record: Mapping[str, Any]) -> None:
        line = orjson.dumps(record, default=bytes.hex, option=orjson.OPT_APPEND_NEWLINE)
        if len(line) > _LINE_BYTES:
            raise UsageError(
                f"{self.path}: row {record.get('row')} is too large for a plan file. Push the "
                "input without one."
            )
        self._mac.update(line)
        self.write(line)


def _head_of(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _record_of(planned: RowPlan) -> dict[str, Any]:
    write, sends = planned.write, planned.sends
    record: dict[str, Any] = {
        "row": planned.row_number,
        "outcome": planned.outcome,
        "id": planned.prospect_id,
        "aliases": (write.email_alias, write.phone_alias, write.row_alias),
        "person": write.person,
        "content": write.content,
        "note": write.note,
        "reason": planned.reason,
    }
    if sends:
        record["says"] = orjson.Fragment(write.body)
        record["values"] = orjson.Fragment(write.row_values or b"null")
        record["settles"], record["exported"] = write.settles, write.exported
        record["looks"] = planned.looks
        record["activities"] = [
            (each.position, each.kind, each.content, orjson.Fragment(each.body))
            for each in planned.activities
        ]
    if planned.merged is not None:
        shown = planned.merged.fields if sends else planned.kept
        record["fields"] = [_field_record(each) for each in shown]
    if planned.settlement is not None:
        record["settlement"] = planned.settlement.to_bytes().decode()
    return record


def _field_record(merged: FieldMerge) -> dict[str, Any]:
    """A field that wasn't read has no `old`."""
    record: dict[str, Any] = {"name": merged.name, "action": merged.action, "why": merged.why.name}
    record["new"] = merged.ours
    if merged.theirs is not UNKNOWN:
        record["old"] = merged.theirs
    record |= {flag: True for flag in _FLAGS if getattr(merged, flag)}
    return record if merged.settles else {**record, "settles": False}


def _unhex(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


_FLAGS = ("reported", "replaces_edit", "disagree")


# --- reading ----------------------------------------------------------------------------------


class PlanFile:
    """A plan file whose MAC was right. counts: rows by outcome; records: how many `rows` gives.
    Close it after use."""

    def __init__(self, name: str, file: BinaryIO, size: int, hasher: Hasher) -> None:
        self._name, self._file, self._hasher = name, file, hasher
        self.header = self._read_header()
        if self.header.ledger != _ledger_of(hasher):
            raise PlanRefused(
                name,
                "was made with another ledger. Apply it where it was made, or on a machine with "
                "the same ledger (HIRINGCENTER_LEDGER_URL).",
            )
        self._end = size - _MAC_BYTES
        tail = self._check_mac()
        counted = self._parsed(tail[tail.rstrip(b"\n").rfind(b"\n") + 1 :])
        self.counts: Mapping[str, int] = counted["counts"]
        self.records: int = counted["records"]

    def check_account(self, scope: int, base_url: str) -> None:
        """Refuse a plan of another account, or of another API.

        Raises:
            PlanRefused: it is one.
        """
        if self.header.base_url != base_url:
            reason = f"is for {self.header.base_url}, not for {base_url}. Nothing was sent."
            raise PlanRefused(self._name, reason)
        if self.header.scope != scope:
            whose = f" ({self.header.account!r})" if self.header.account else ""
            raise PlanRefused(
                self._name,
                f"was made for another account{whose}. Apply it with that account's key "
                "(--account NAME), or make a plan for this one.",
            )

    def check_age(self, now_ms: int, max_age_s: float) -> None:
        """Refuse a plan older than `max_age_s`. now_ms: by the ledger's clock.

        Raises:
            PlanRefused: it is.
        """
        if now_ms - self.header.planned_ms > max_age_s * 1000:
            raise PlanRefused(
                self._name,
                f"was made at {self.header.created_at}, which is longer ago than --max-age allows. "
                "Make the plan again: it shows what has changed since.",
            )

    def rows(self) -> Iterator[RowPlan]:
        """Each row that has something to send or to settle, in the order of the planner.

        Raises:
            PlanRefused: the file was changed since it was opened; raised after its last row.
        """
        self._file.seek(0)
        mac, at, records = self._hasher.new_mac(), 0, 0
        while at < self._end:
            line = self._file.readline(min(_LINE_BYTES, self._end - at))
            mac.update(line)
            if not line.endswith(b"\n"):
                break
            if at and records < self.records:
                records += 1
                yield self._row(line)
            at += len(line)
        self._compare(mac.hexdigest())

    def _read_header(self) -> PlanHeader:
        line = self._file.readline(_HEADER_BYTES)
        if not line.startswith(_MAGIC):
            raise PlanRefused(
                self._name, "isn't a plan. Make one: hiringcenter plan FILE --out F.hcplan."
            )
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError:
            raise self._altered() from None
        if found.pop("hiringcenter_plan", None) != FORMAT:
            raise _another_version(self._name)
        try:  # earlier plans have facts that are no longer written, since nothing read them
            return PlanHeader(**{name: found[name] for name in _FACTS})
        except KeyError:
            raise self._altered() from None

    def _check_mac(self) -> bytes:
        """Read the whole file; returns its end, without the MAC."""
        self._file.seek(0)
        mac, left, tail = self._hasher.new_mac(), self._end, b""
        while left > 0 and (chunk := self._file.read(min(_CHUNK_BYTES, left))):
            mac.update(chunk)
            left -= len(chunk)
            tail = (tail + chunk)[-_HEADER_BYTES:]
        self._compare(mac.hexdigest())
        return tail

    def _compare(self, digest: str) -> None:
        self._file.seek(max(0, self._end))
        found = self._file.read(_MAC_BYTES + 1)
        if not hmac.compare_digest(found, _MAC + digest.encode() + b"\n"):
            raise self._altered()

    def _altered(self) -> PlanRefused:
        return PlanRefused(
            self._name,
            "was altered or cut short since it was made, so nothing of it is sent. Make the plan "
            "again.",
        )

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError:
            raise self._altered() from None
        return found if isinstance(found, dict) else {}

    def _row(self, line: bytes) -> RowPlan:
        record = self._parsed(line)
        try:
            return self._planned(record)
        except (KeyError, TypeError, ValueError):  # rewritten since its MAC was checked
            raise self._altered() from None

    def _planned(self, record: Mapping[str, Any]) -> RowPlan:
        says, values = record.get("says"), record.get("values")
        email, phone, row = record["aliases"]
        write = Write(
            "", self.header.source, record["row"], 0, PROSPECTS, record["person"],
            email, phone, row, bytes.fromhex(record["content"]),
            b"" if says is None else orjson.dumps(says),
            None if values is None else orjson.dumps(values),
            record["note"], record["id"],
            settles=_unhex(record.get("settles")), exported=_unhex(record.get("exported")),
        )  # fmt: skip
        activities = [
            write._replace(
                position=position,
                kind=kind,
                content=bytes.fromhex(content),
                body=orjson.dumps(says),
                settles=None,
            )
            for position, kind, content, says in record.get("activities", ())
        ]
        found = record.get("fields")
        settlement = record.get("settlement")
        return RowPlan(
            write,
            activities,
            record["outcome"],
            record["id"],
            None if found is None else PersonMerge(tuple(map(_field_of, found))),
            record.get("looks", False),
            record["reason"],
            None if settlement is None else Settlement.from_bytes(settlement.encode()),
        )

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _field_of(record: Mapping[str, Any]) -> FieldMerge:
    return FieldMerge(
        record["name"],
        FieldAction(record["action"]),
        Why[record["why"]],
        record["new"],
        record.get("old", UNKNOWN),
        settles=record.get("settles", True),
        **{flag: record.get(flag, False) for flag in _FLAGS},
    )


def open_plan(path: Path, hasher: Hasher) -> PlanFile:
    """The plan at `path`, after its MAC was checked. hasher: the outbox's.

    Raises:
        PlanRefused: it can't be read, isn't a plan of this ledger and version, or was altered.
    """
    name = str(path)
    with ExitStack() as stack:
        try:  # a pipe without a writer must not block
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise PlanRefused(
                name, f"can't be read: {error.strerror}. Check its path and permissions."
            ) from error
        stack.callback(os.close, descriptor)
        there = os.fstat(descriptor)
        if not stat.S_ISREG(there.st_mode):
            raise PlanRefused(name, "isn't a file. Name the plan file itself.")
        if there.st_size > _FILE_BYTES:
            raise PlanRefused(name, "is larger than any plan. Make the plan again.")
        stack.pop_all()
        file = stack.enter_context(os.fdopen(descriptor, "rb"))
        plan = PlanFile(name, file, there.st_size, hasher)
        stack.pop_all()
    return plan
