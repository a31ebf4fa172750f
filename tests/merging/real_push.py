"""A push of the real planner, outbox and sender, against HiringCenter in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import sqlalchemy as sa

from connector.api.client import WriteAnswer
from connector.api.envelopes import Page
from connector.budget import Lane
from connector.errors import Refused, Unreachable
from connector.upsert.outbox.evidence import PulledProspect
from connector.upsert.outbox.outbox_schema import results, writes
from tests.fake_clock import FakeClock
from tests.merging.model_push import TRUSTED_MS, Result
from tests.merging.people import (
    FIELDS,
    Changed,
    FileRow,
    HiringCenter,
    Killed,
    Lost,
    NotAccepted,
    PulledCopy,
)
from tests.pushes.fake_api import Crash, unreachable
from tests.pushes.rig import CopyByContact, Rig

_KEPT = "kept as HiringCenter has it: "
_DISAGREE = "rows of this person disagree: "


class CopyOfCenter(CopyByContact):
    """The model's copy, as the destination shows it."""

    def __init__(self, copy: PulledCopy) -> None:
        self._copy = copy
        self.complete_ms = copy.complete_ms or None

    def by_id(
        self, ids: Collection[str], *, with_fields: bool = False
    ) -> dict[str, PulledProspect]:
        found = {}
        for id_ in ids:
            if (each := self._copy.people.get(id_)) is not None:
                deleted_ms = self._copy.complete_ms if each.deleted else None
                found[id_] = PulledProspect(id_, each.updated_ms, deleted_ms, each.fields)
        return found

    def by_email(self, emails: Collection[str]) -> dict[str, frozenset[str]]:
        return {each: frozenset(self._copy.having("email", each)) for each in emails}

    def by_phone(self, phones: Collection[str]) -> dict[str, frozenset[str]]:
        return {each: frozenset(self._copy.having("phone", each)) for each in phones}


@dataclass
class CenterApi:
    """HiringCenter behind the API client's methods. sent: key → when it first went out."""

    center: HiringCenter
    clock: FakeClock
    sent_ms: dict[str, int] = field(default_factory=dict)
    asked: dict[tuple[str, int], tuple[FileRow, Changed]] = field(default_factory=dict)
    rig: Any = None

    def server_now_s(self) -> float | None:
        return self.center.now_ms / 1000

    def page(self, resource: str, params: Mapping[str, str], *, lane: Lane = Lane.PULL) -> Page:
        name, value = next(iter(params.items()))
        found = Page(self.center.by(name, value), None, None)
        self.clock.advance(0.01)
        return found

    def record(
        self, resource: str, record_id: str, *, lane: Lane = Lane.PULL
    ) -> dict[str, Any] | None:
        self.clock.advance(0.01)
        return self.center.by_id(record_id)

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
        query = sa.select(writes.c.run_id, writes.c.row_number).where(
            writes.c.idempotency_key == idempotency_key
        )
        with self.rig.database.read() as connection:
            run_id, number = connection.execute(query).one()
        row, changed = self.asked[run_id, number]
        payload = orjson.loads(body)
        first_ms = self.sent_ms.setdefault(idempotency_key, self.center.now_ms)
        since_ms = self.center.now_ms - (TRUSTED_MS if first_ms < self.center.now_ms else 0)
        if payload.get("update") is False:
            since_ms = min(since_ms, first_ms)
        before_ms = self.center.now_ms
        try:
            status, item = self.center.post(idempotency_key, payload, [row], changed, since_ms)
        except Killed as error:
            raise Crash from error
        except Lost as error:
            raise unreachable() from error
        except NotAccepted as error:
            raise Refused(status=400, url_path="/prospects", reason="no") from error
        finally:
            self.clock.advance((self.center.now_ms - before_ms) / 1000)
        if status == 409:
            raise Refused(status=409, url_path="/prospects", reason="exists")
        before_s = None if first_sent_s is None else self.clock.monotonic_s() - first_sent_s
        return WriteAnswer(status, item, None, first_sent_before_s=before_s)


class RealPushes:
    """Pushes of one history, over one ledger."""

    def __init__(self, center: HiringCenter, copy: PulledCopy, url: str) -> None:
        self._clock = FakeClock()
        center.now_ms = int(self._clock.now_s() * 1000)
        self._center, self._copy = center, copy
        self._api = CenterApi(center, self._clock)
        self._rig = Rig(
            url, self._api, clock=self._clock, key_memory_s=600, in_flight=1, fresh_ms=0
        )  # type: ignore[arg-type]
        self._api.rig = self._rig

    def push(self, source: str, rows: list[FileRow]) -> Result | None:
        self._clock.advance(max(0.0, self._center.now_ms / 1000 - self._clock.now_s()))
        self._rig.pulled = CopyOfCenter(self._copy)
        run_id = f"run-{self._rig.pushes + 1:04}"
        for number, row in enumerate(rows, start=2):
            changed = {(row.number, name): row.cells[name] for name in row.dirty}
            self._api.asked[run_id, number] = (row, changed)
        try:
            pushed = self._rig.push([row.says() for row in rows], source=source)
        except (Crash, Unreachable):
            return None
        finally:
            self._center.now_ms = max(self._center.now_ms, int(self._clock.now_s() * 1000))
        result = Result()
        with self._rig.database.read() as connection:
            query = sa.select(results.c.row_number, results.c.prospect_id)
            ids = dict(connection.execute(query.where(results.c.run_id == run_id)).all())  # type: ignore[arg-type]
        for number, row in enumerate(rows, start=2):
            self._note(
                result, row, pushed.statuses[number], pushed.messages[number] or "", ids[number]
            )
        return result

    @staticmethod
    def _note(result: Result, row: FileRow, status: str, message: str, id_: str | None) -> None:
        result.status[row.number] = f"{status}: {message}"
        if "stay deleted" in message:
            result.status[row.number] = "kept whole"
            row.dirty.clear()
        if status in ("rejected", "failed"):
            result.reported |= {(row.number, name) for name in FIELDS}
        elif id_ is not None:
            row.is_at(id_, (row.cells.get("firstName"), row.cells.get("lastName")))
        _, _, rest = message.partition(_DISAGREE)
        disagree = rest.partition(";")[0].split(",")
        result.reported |= {(row.number, name.strip()) for name in disagree}
        _, found, rest = message.partition(_KEPT)
        if found:
            kept = {name.strip() for name in rest.partition(";")[0].split(",")}
            result.kept |= {(row.number, name) for name in kept}
            result.reported |= result.kept
            row.dirty -= kept

    def close(self) -> None:
        self._rig.close()
