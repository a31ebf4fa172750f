"""What is known of the people behind a chunk of rows, looked up set by set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import orjson
import sqlalchemy as sa

from connector.upsert.outbox.decisions import Evidence, best_of
from connector.upsert.outbox.identity import Aliases
from connector.upsert.outbox.outbox import Outbox
from connector.upsert.outbox.pulled import Pulled, is_suspect, why_stale
from connector.upsert.outbox.receipts import Found, Receipts
from connector.upsert.outbox.staging import StagedRow, names_of_row
from connector.upsert.outbox.writes import PROSPECTS, UncertainWrite, names_of

Uncertain = Collection[UncertainWrite]


@dataclass(frozen=True)
class Known:
    """What the ledger knows of some rows. attached: (prospect id, kind, content)."""

    found: Mapping[int, Found]
    attached: Collection[tuple[str, str, bytes]]
    uncertain: Uncertain

    def of(self, names: Aliases, content: bytes) -> Evidence:
        """The evidence for one row, as far as the ledger goes."""
        by_email, by_phone, by_row = (
            self.found.get(alias) if alias is not None else None
            for alias in (names.email, names.phone, names.row)
        )
        leads_to = best_of(by_email, by_phone, by_row)
        return Evidence(
            by_email=by_email,
            by_phone=by_phone,
            by_row=by_row,
            receipt=leads_to.receipt if leads_to is not None else None,
            uncertain=any((name, PROSPECTS, content) in self.uncertain for name in names.present()),
        )


def known_of(
    connection: sa.Connection,
    receipts: Receipts,
    names: Collection[int],
    uncertain: Uncertain,
    *,
    attached: bool,
) -> Known:
    """Look up all of `names` at once. attached: also what was created beside their prospects."""
    found = receipts.find(connection, names)
    ids = {each.prospect_id for each in found.values()} if attached else set()
    return Known(found, receipts.attached(connection, ids), uncertain)


@dataclass(frozen=True)
class LookedUp:
    """What is known of some rows. plain: row id → prospect id of those that are unchanged without
    further thought; evidence: by row id, of the others."""

    known: Known
    plain: Mapping[int, str]
    evidence: Mapping[int, Evidence]


class EvidenceFinder:
    """Evidence for staged rows: the ledger's, and what the last pull saw since."""

    def __init__(self, outbox: Outbox, receipts: Receipts, pulled: Pulled) -> None:
        self._outbox, self._receipts, self.pulled = outbox, receipts, pulled
        self._uncertain = outbox.uncertain()
        self._open = {name for write in outbox.open_sends() for name in names_of(write)}
        self._unsettled = self._open | {name for name, _, _ in self._uncertain}

    def look_up(self, rows: Sequence[StagedRow], *, sift: bool) -> LookedUp:
        """Everything known of `rows`. sift: tell apart those that are plainly unchanged."""
        plain = self._plain(rows) if sift else {}
        rest = [row for row in rows if row.id not in plain]
        known = self._known(rest)
        names = {row.id: names_of_row(row, self._outbox.hasher) for row in rest}
        evidence = {
            row.id: self._without_open(names[row.id], known.of(names[row.id], row.content))
            for row in rest
        }
        self._add_edits(rest, evidence)
        self._add_contacts(rest, evidence)
        return LookedUp(known, plain, evidence)

    def _known(self, rows: Sequence[StagedRow]) -> Known:
        names = {row.email for row in rows} | {row.phone for row in rows}
        names.discard(None)
        nameless = [row for row in rows if row.email is None and row.phone is None]
        names.update(names_of_row(row, self._outbox.hasher).row for row in nameless)
        with self._outbox.database.read() as connection:
            return known_of(
                connection,
                self._receipts,
                cast("set[int]", names),
                self._uncertain,
                attached=any(row.activities for row in rows),
            )

    def _plain(self, rows: Sequence[StagedRow]) -> dict[int, str]:
        """row id → prospect id of rows without anything to weigh: they say what was accepted
        last, nothing of theirs is open, nothing newer was pulled."""
        plain = {
            row.id: row
            for row in rows
            if row.repeats is not None
            and row.activities is None
            and self._unsettled.isdisjoint((row.email, row.phone, row.repeats))
        }
        pulled = self.pulled.by_id({row.repeats for row in plain.values() if row.repeats})
        complete_ms = self.pulled.complete_ms
        return {
            id_: row.repeats or ""
            for id_, row in plain.items()
            if not is_suspect(
                row.accepted_ms or 0, row.updated_at_ms, pulled.get(row.repeats or ""), complete_ms
            )
        }

    def _without_open(self, names: Aliases, evidence: Evidence) -> Evidence:
        """While the answer to an earlier write is missing, what was accepted last isn't known."""
        receipt = evidence.receipt
        ids = {receipt.prospect_id} if receipt else set()
        if self._open and self._open.intersection({*names.present(), *ids}):
            return replace(evidence, receipt=None)
        return evidence

    def _add_edits(self, rows: Sequence[StagedRow], evidence: dict[int, Evidence]) -> None:
        """What was edited or deleted since it was accepted is stale."""
        candidates = {
            row.id: (row, receipt)
            for row in rows
            if (receipt := evidence[row.id].receipt) and row.content in receipt.tail
        }
        pulled = self.pulled.by_id({receipt.prospect_id for _, receipt in candidates.values()})
        suspects = {
            id_: (row, receipt)
            for id_, (row, receipt) in candidates.items()
            if is_suspect(
                receipt.accepted_ms,
                receipt.updated_at_ms,
                pulled.get(receipt.prospect_id),
                self.pulled.complete_ms,
            )
        }
        seen = self.pulled.with_fields({receipt.prospect_id for _, receipt in suspects.values()})
        for id_, (row, receipt) in suspects.items():
            stale = why_stale(receipt, seen.get(receipt.prospect_id), orjson.loads(row.payload))
            evidence[id_] = replace(evidence[id_], stale=stale)

    def _add_contacts(self, rows: Sequence[StagedRow], evidence: dict[int, Evidence]) -> None:
        """For rows that look as if they would be sent: who has their contacts by now."""
        contacts: dict[int, tuple[str | None, str | None]] = {
            row.id: _contacts(orjson.loads(row.payload))
            for row in rows
            if not (evidence[row.id].receipt and row.content in _tail(evidence[row.id]))
        }
        by_email = self.pulled.by_email({email for email, _ in contacts.values() if email})
        by_phone = self.pulled.by_phone({phone for _, phone in contacts.values() if phone})
        for id_, (email, phone) in contacts.items():
            evidence[id_] = replace(
                evidence[id_],
                pulled_by_email=by_email.get(email or "", frozenset()),
                pulled_by_phone=by_phone.get(phone or "", frozenset()),
            )


def _tail(evidence: Evidence) -> tuple[bytes, ...]:
    return evidence.receipt.tail if evidence.receipt else ()


def _contacts(payload: Mapping[str, Any]) -> tuple[str | None, str | None]:
    email, phone = payload.get("email"), payload.get("phone")
    return (
        email.casefold() if isinstance(email, str) else None,
        phone if isinstance(phone, str) else None,
    )
