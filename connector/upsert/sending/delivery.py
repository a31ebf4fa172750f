"""One write brought to the API by one thread: posted, or, where its key is too old, looked after.

What came of it is handed back as a `Delivered`; nothing here touches the outbox.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from connector.api.client import WriteAnswer
from connector.budget import Lane
from connector.clock import SteadyClock
from connector.errors import ConnectorError, Refused, Unreachable
from connector.upsert.outbox.matching import compare, conflict_with
from connector.upsert.outbox.outbox import (
    PROSPECTS,
    Fate,
    Write,
    fate_of_activity,
    fate_of_creation,
    fate_of_prospect,
    says_the_same,
    was_remembered,
)
from connector.upsert.sending.api import (
    SKEW_ERROR_MS,
    Api,
    KeyMemory,
    LongList,
    UnfilteredList,
    server_ms,
)
from connector.upsert.sending.people import People

_ASKING_AGAIN_S = 60.0
"""An earlier run was patient with this write already, and others wait for it to be settled."""


@dataclass(frozen=True)
class Delivered:
    """What came of one errand. Of answer, fate, exists, met and error one is set.

    fate: by looking, where the key was too old to ask; item: the prospect looked at. exists:
    whether it is there, so far nothing was sent; is_equal: and needs no change; write: without
    what is there already. key_age_s, remembered: what the answer to a repeated write shows of the
    API's memory, see `states.was_remembered`. expected_is_gone: somebody was created where a
    prospect was to be changed, who doesn't exist any more. met: the prospect that a creation has
    met, as it was before and still is. was_refused: the API said so itself (409), so that it surely
    changed nothing.
    """

    write: Write
    answer: WriteAnswer | None = None
    fate: Fate | None = None
    item: Mapping[str, Any] | None = None
    exists: bool | None = None
    is_equal: bool = False
    expected_is_gone: bool = False
    met: Mapping[str, Any] | None = None
    was_refused: bool = False
    error: BaseException | None = None
    key_age_s: float = 0.0
    remembered: bool | None = None


class Courier:
    """Delivers writes; any number of threads may use it at once.

    compares: who is looked up is compared with the write, not only found.
    """

    def __init__(
        self, api: Api, *, keys: KeyMemory, clock: SteadyClock, compares: bool = False
    ) -> None:
        self._api, self.keys, self._clock, self._compares = api, keys, clock, compares
        self._people = People(api)

    def look(self, write: Write) -> Delivered:
        """What is there of what `write` would create or update."""
        try:
            if write.kind != PROSPECTS:
                is_there = self._is_attached(write.kind, str(write.prospect_id), write.body)
                return Delivered(write, exists=is_there, is_equal=is_there)
            return self._look_at_person(write)
        except BaseException as error:  # noqa: BLE001 - judged by the thread that keeps the outbox
            return Delivered(write, error=error)

    def _look_at_person(self, write: Write) -> Delivered:
        payload = orjson.loads(write.body)
        if write.names.row is not None and write.prospect_id is None:
            people = self._people.by_name(payload)
            item = next((each for each in people if not compare(payload, each).differs), None)
        else:
            item = self._people.of(write.prospect_id, payload)
        if item is None or not self._compares:
            return Delivered(write, exists=item is not None, item=item)
        id_ = str(item.get("id") or write.prospect_id)
        if payload.get("notes"):  # it becomes a note of the person, and another each time
            note = orjson.dumps({"body": payload["notes"]})
            if self._is_attached("notes", id_, note):
                del payload["notes"]
        write = replace(write, prospect_id=id_, body=orjson.dumps(payload))
        return Delivered(write, exists=True, item=item, is_equal=compare(payload, item).equal)

    def _is_attached(self, kind: str, prospect_id: str, body: bytes) -> bool:
        there, payload = self._people.attached(kind, prospect_id), orjson.loads(body)
        if any(says_the_same(payload, item) for item in there.items):
            return True
        if not there.complete:
            raise LongList(kind=kind, seen=len(there.items))
        return False

    def deliver(
        self, write: Write, *, resumed: bool, accepted_updated_at_ms: int | None
    ) -> Delivered:
        """Bring `write` to the API, whatever happens.

        resumed: it may have been sent before. accepted_updated_at_ms: see `fate_of_prospect`.
        """
        try:
            return self._deliver(write, resumed, accepted_updated_at_ms)
        except BaseException as error:  # noqa: BLE001 - as above
            return Delivered(write, error=error)

    def _deliver(self, write: Write, resumed: bool, accepted_ms: int | None) -> Delivered:
        if not resumed or self._is_young(write):
            try:
                return self._answered(write, self._post(write, resumed), resumed)
            except Refused as error:
                if error.status != 409 or not write.creates:
                    raise
                return self._after_conflict(write, error, resumed)
            except Unreachable:
                if self._is_young(write):
                    raise
        return self._investigate(write, accepted_ms)

    def _is_gone(self, write: Write, answer: WriteAnswer) -> bool:
        """Whether the prospect to be changed is gone, where somebody else was created instead."""
        if write.kind != PROSPECTS or write.prospect_id is None or answer.status != 201:
            return False
        if answer.item.get("id") is None or str(answer.item["id"]) == write.prospect_id:
            return False
        try:
            return self._people.by_id(write.prospect_id) is None
        except ConnectorError:  # not known: reported as if they were still there
            return False

    def _post(self, write: Write, resumed: bool) -> WriteAnswer:
        assert write.idempotency_key is not None
        return self._api.post(
            write.kind,
            write.body,
            idempotency_key=write.idempotency_key,
            lane=Lane.PUSH,
            first_sent_s=self._clock.monotonic_s() - self._age_s(write) if resumed else None,
            remembered_s=self.keys.usable_s,
            patience_s=_ASKING_AGAIN_S if resumed else math.inf,
        )

    def _after_conflict(self, write: Write, error: Refused, resumed: bool) -> Delivered:
        """Somebody has the contact already: who it is."""
        found = self._people.by_contact(orjson.loads(write.body))
        if found.item is not None:
            return replace(self._met(write, found.item, repeated=resumed), was_refused=True)
        if not found.sure:
            raise UnfilteredList
        raise error

    def _met(self, write: Write, item: Mapping[str, Any], *, repeated: bool) -> Delivered:
        """A creation has met somebody; whom it created itself, where it was sent before."""
        if repeated and self._fate_of_creation(write, item) is Fate.APPLIED:
            # an API that remembers the key would have answered as it did then
            return Delivered(write, fate=Fate.APPLIED, item=item, remembered=False)
        return Delivered(write, met=item)

    def _fate_of_creation(self, write: Write, item: Mapping[str, Any] | None) -> Fate | None:
        """See `states.fate_of_creation`; whoever has another first name was made by others."""
        if item and conflict_with(write.row_number, orjson.loads(write.body), item):
            return None
        return fate_of_creation(item, self._sent_server_ms(write))

    def _answered(self, write: Write, answer: WriteAnswer, resumed: bool) -> Delivered:
        """The answer, and what it shows of the API's memory where the write was repeated."""
        if write.creates and answer.status != 201:
            repeated = resumed or answer.first_sent_before_s is not None
            return self._met(write, answer.item, repeated=repeated)
        age_s, is_gone = answer.first_sent_before_s, self._is_gone(write, answer)
        if age_s is None:
            return Delivered(write, answer=answer, expected_is_gone=is_gone)
        now_ms = server_ms(self._api)
        remembered = was_remembered(
            status=answer.status,
            item=answer.item,
            replayed=answer.replayed,
            created_before=write.kind != PROSPECTS or write.prospect_id is not None,
            first_server_ms=self._sent_server_ms(write),
            again_server_ms=None if now_ms is None else now_ms - int(answer.took_s * 1000),
        )
        return Delivered(
            write,
            answer=answer,
            expected_is_gone=is_gone,
            key_age_s=age_s,
            remembered=remembered,
        )

    def _age_s(self, write: Write) -> float:
        """By the ledger's clock; infinite where that can't tell."""
        return self._clock.age_s(None if write.sent_ms is None else write.sent_ms / 1000)

    def _is_young(self, write: Write) -> bool:
        return write.idempotency_key is not None and self.keys.is_sure(self._age_s(write))

    def _investigate(self, write: Write, accepted_ms: int | None) -> Delivered:
        """The fate of a write whose key may be forgotten, by looking at what is there now."""
        if write.kind != PROSPECTS:
            return Delivered(write, fate=self._fate_of_activity(write))
        payload = orjson.loads(write.body)
        item: Mapping[str, Any] | None
        if write.prospect_id is not None:
            item = self._people.by_id(write.prospect_id)
        elif write.names.row is not None:
            return Delivered(write, fate=Fate.UNKNOWN)
        else:
            item, sure = self._people.by_contact(payload)
            if item is None and not sure:
                return Delivered(write, fate=Fate.UNKNOWN)
            if write.creates:
                created = self._fate_of_creation(write, item)
                if created is None:
                    return Delivered(write, met=item)
                return Delivered(write, fate=created, item=item)
        fate = fate_of_prospect(
            payload,
            item,
            known_before=write.prospect_id is not None,
            accepted_updated_at_ms=accepted_ms,
            sent_server_ms=self._sent_server_ms(write),
        )
        return Delivered(write, fate=fate, item=item)

    def _fate_of_activity(self, write: Write) -> Fate:
        there = self._people.attached(write.kind, str(write.prospect_id))
        return fate_of_activity(
            orjson.loads(write.body),
            there.items,
            complete=there.complete,
            sent_server_ms=self._sent_server_ms(write),
        )

    def _sent_server_ms(self, write: Write) -> int | None:
        """No later than the server's clock can have said when it was sent first; None: not
        known."""
        now_s, age_s = self._api.server_now_s(), self._age_s(write)
        guesses = [] if write.sent_server_ms is None else [write.sent_server_ms]
        if now_s is not None and age_s < math.inf:
            guesses.append(int((now_s - age_s) * 1000) - SKEW_ERROR_MS)
        return min(guesses, default=None)
