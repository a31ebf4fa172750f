"""An API in memory with a clock that tests move: what it applied, what it forgot, when it died."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from connector.api.client import WriteAnswer
from connector.api.envelopes import Page
from connector.budget import Lane
from connector.errors import Refused, Unreachable
from connector.upsert.looking import PageOfPeople
from tests.fake_clock import FakeClock

_WRITE_ONLY = ("update", "muteWebhook")


class Crash(BaseException):
    """The process dies here."""


@dataclass
class Applied:
    """One change really made."""

    resource: str
    id: str
    key: str
    payload: dict[str, Any]


@dataclass
class FakeApi:
    """Prospects and notes. fate: what becomes of the nth POST (from 0): `ok`; `lost` (applied,
    no answer), `unsent` (not applied, no answer), `refused` (400), `crash before`, `crash after`
    (applied).

    keys_ttl_s: how long a key is remembered; None = for ever. marks_replays: in a header. Each
    request takes 10 ms. Steps of the wall aren't the server's. drops_phones: takes none over.
    numbers_ids: ids are integers. merges_labels: they are added to those that are there.
    shows_labels_as_text: separated by commas. says_created: of whom it has updated, too; None: of
    no one. names_no_one: its answers to writes have no id. shows_no_times: people have no
    `updatedAt`. on_match: what a match answers with `update: false`: `existing` (200 and the person
    as they are), `conflict` (409), or `ignored` (the person is updated). posts, gets, pages: how
    many requests there were; pages are those of scans. before_post: what recruiters do between a
    look-up and the write, given how many POSTs came before it.
    """

    clock: FakeClock
    keys_ttl_s: float | None = None
    fate: Callable[[int], str] = lambda _: "ok"
    marks_replays: bool = False
    drops_phones: bool = False
    numbers_ids: bool = False
    merges_labels: bool = False
    shows_labels_as_text: bool = False
    says_created: bool | None = False
    names_no_one: bool = False
    shows_no_times: bool = False
    on_match: str = "existing"
    before_post: Callable[[int], object] = lambda _: None
    skew_s: float = 0.0
    latency_s: float | None = 0.01
    prospects: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)
    applied: list[Applied] = field(default_factory=list)
    posts: int = 0
    gets: int = 0
    pages: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._keys: dict[str, tuple[float, WriteAnswer | Refused]] = {}
        self._ids = itertools.count(1)
        self._base_s = self.clock.now_s() - self.clock.monotonic_s()
        self._was_heard = False

    def now_ms(self) -> int:
        return int((self._base_s + self.clock.monotonic_s() + self.skew_s) * 1000)

    def server_now_s(self) -> float | None:
        return self.now_ms() / 1000 if self._was_heard else None

    def edit(self, id_: str, *, touch: bool = True, **fields: Any) -> None:
        """A recruiter changes a prospect."""
        self.clock.advance(1)
        self.prospects[id_] |= fields
        if touch:
            self.prospects[id_]["updatedAt"] = self.now_ms()

    def page(self, resource: str, params: Mapping[str, str], *, lane: Lane = Lane.PULL) -> Page:
        with self._lock:
            self._tick()
            self.gets += 1
            table = getattr(self, resource)
            name, value = next(iter(params.items()))
            return Page(
                [self._shown(row) for row in table.values() if str(row.get(name)) == value],
                None,
                None,
            )

    def scan(self, size: int, *, is_whole: bool = True) -> Iterator[PageOfPeople]:
        """All prospects, page by page, as they are when each is asked for."""
        ids = list(self.prospects)
        starts = range(0, len(ids), size)
        for start in starts:
            with self._lock:
                self._tick()
                self.pages += 1
                people = [
                    dict(self.prospects[id_])
                    for id_ in ids[start : start + size]
                    if id_ in self.prospects
                ]
                asked_ms = int(self.clock.now_s() * 1000) - 10
            yield PageOfPeople(people, asked_ms, ends=is_whole and start == starts[-1])

    def record(
        self, resource: str, record_id: str, *, lane: Lane = Lane.PULL
    ) -> dict[str, Any] | None:
        with self._lock:
            self._tick()
            self.gets += 1
            found = getattr(self, resource).get(record_id)
            return None if found is None else self._shown(found)

    def post(
        self,
        resource: str,
        body: bytes,
        *,
        idempotency_key: str,
        lane: Lane = Lane.PUSH,
        first_sent_s: float | None = None,
        remembered_s: float = float("inf"),
        patience_s: float = float("inf"),
    ) -> WriteAnswer:
        with self._lock:
            fate = self.fate(self.posts)
            self.before_post(self.posts)
            self.posts += 1
            self._tick()
            if fate == "crash before":
                raise Crash
            if fate == "unsent":
                raise unreachable()
            if fate == "refused":
                raise Refused(status=400, url_path=f"/{resource}", reason="not so")
            answer = self._answer(resource, body, idempotency_key)
            if isinstance(answer, WriteAnswer) and first_sent_s is not None:
                before_s = self.clock.monotonic_s() - first_sent_s
                answer = replace(answer, first_sent_before_s=before_s)
            if fate == "crash after":
                raise Crash
            if fate == "lost":
                raise unreachable()
            if isinstance(answer, Refused):
                raise answer
            return answer

    def _tick(self) -> None:
        self.clock.advance(0.01)
        self._was_heard = True

    def _answer(self, resource: str, body: bytes, key: str) -> WriteAnswer | Refused:
        kept = self._keys.get(key)
        now_s = self.clock.monotonic_s()
        if kept and (self.keys_ttl_s is None or now_s - kept[0] <= self.keys_ttl_s):
            if isinstance(kept[1], Refused):
                return kept[1]
            return replace(kept[1], replayed=self.marks_replays)
        answer = self._apply(resource, orjson.loads(body), key)
        self._keys[key] = (now_s, answer)
        return answer

    def _apply(self, resource: str, payload: dict[str, Any], key: str) -> WriteAnswer | Refused:
        fields = {name: value for name, value in payload.items() if name not in _WRITE_ONLY}
        table = getattr(self, resource)
        match = self._match(fields) if resource == "prospects" else None
        if match and payload.get("update") is False and self.on_match != "ignored":
            if self.on_match == "conflict":
                return Refused(status=409, url_path="/prospects", reason="this prospect exists")
            return WriteAnswer(200, self._shown(match), None)
        if self.numbers_ids and "prospectId" in fields:
            fields["prospectId"] = int(fields["prospectId"])
        if self.drops_phones and fields.get("phone"):
            fields["phone"] = None
        if match and self.merges_labels and "labels" in fields:
            fields["labels"] = [*dict.fromkeys([*match.get("labels", []), *fields["labels"]])]
        is_called_new = self.says_created is not None and (self.says_created or not match)
        status = 201 if is_called_new else 200
        record = match or {"id": self._next_id(resource), "createdAt": self.now_ms()}
        record |= fields | {"updatedAt": self.now_ms()}
        table[str(record["id"])] = record
        self.applied.append(Applied(resource, str(record["id"]), key, payload))
        shown = self._shown(record)
        if self.names_no_one:
            del shown["id"]
        return WriteAnswer(status, shown, None)

    def _shown(self, record: Mapping[str, Any]) -> dict[str, Any]:
        shown = dict(record)
        if self.shows_no_times:
            shown.pop("updatedAt", None)
        if self.shows_labels_as_text and isinstance(shown.get("labels"), list):
            shown["labels"] = ",".join(shown["labels"])
        return shown

    def _next_id(self, resource: str) -> str | int:
        number = next(self._ids)
        return number if self.numbers_ids else f"{resource[0]}{number}"

    def _match(self, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        for name in ("email", "phone"):
            for record in self.prospects.values():
                if fields.get(name) and record.get(name) == fields[name]:
                    return record
        return None


def unreachable() -> Unreachable:
    """No usable answer, after some tries."""
    return Unreachable(url_path="/prospects", tries=3, tried_s=1.0, last="dropped")
