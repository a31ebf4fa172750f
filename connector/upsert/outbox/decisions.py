"""What to do with one row, given what is known of its person. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from connector.upsert.outbox.receipts import Found, Receipt
from connector.upsert.outbox.shared_contacts import DISPUTED, OtherPerson

Mode = Literal["upsert", "create-only", "update-only"]

TWO_PEOPLE = (
    "email and phone belong to two different prospects ({email_id} and {phone_id}); merging two "
    "people can't be undone. Correct one of them, or split the row in two."
)
UNCERTAIN = (
    "uncertain: an earlier try to send this row may or may not have been applied, and the API has "
    "forgotten it. Look at the prospect in HiringCenter; if it isn't as this row says, push the "
    "row with --force. It is not sent again by itself."
)
EXISTS = "this person exists already; --mode create-only leaves them as they are"
REPEATED = (
    "a row with the same content and neither email nor phone was created before; --force creates "
    "it once more"
)


class Action(StrEnum):
    """send: a request is needed. The others are outcomes."""

    SEND = "send"
    UNCHANGED = "unchanged"
    REJECT = "reject"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True)
class Evidence:
    """What is known of one row's person.

    by_email, by_phone, by_row: where its aliases lead. pulled_by_email, pulled_by_phone: ids that
    the destination has for its contacts; looked up only for rows that look as if they'd be sent.
    receipt: of the prospect that `prospect_id` names. stale: why what was accepted last no longer
    holds. uncertain: an earlier write of the same content has an unknown fate. disputed: the
    prospect that was expected behind a contact of the row, and the one that answered. others: known
    people of another first name whom the contacts lead to. fits: the first name agrees with that
    of a person whom they lead to. settled: of those people, on whom this source has settled the
    first name; created: by creating them. contacts: how many the row has, of email and phone.
    """

    by_email: Found | None = None
    by_phone: Found | None = None
    by_row: Found | None = None
    pulled_by_email: frozenset[str] = frozenset()
    pulled_by_phone: frozenset[str] = frozenset()
    receipt: Receipt | None = None
    stale: str | None = None
    uncertain: bool = False
    disputed: tuple[str, str] | None = None
    others: tuple[OtherPerson, ...] = ()
    fits: bool = False
    settled: frozenset[str] = frozenset()
    created: bool = False
    contacts: int = 0

    @property
    def contacts_dropped(self) -> bool:
        """Whether HiringCenter took over none of the row's contacts: it would find nobody by
        them, and create the person once more."""
        found = [each for each in (self.by_email, self.by_phone) if each and not each.confirmed]
        return 0 < len(found) == self.contacts


@dataclass(frozen=True)
class Decision:
    """prospect_id: whom the row is about, where that is known; of a row that is sent, whom the API
    is expected to find. reason: for people, or None. names: of the people that the reason is
    about, for the rejects file alone."""

    action: Action
    prospect_id: str | None = None
    reason: str | None = None
    names: str | None = None


def best_of(*found: Found | None) -> Found | None:
    """Of where the aliases lead, the one to believe: a confirmed one before others, in order."""
    known = [each for each in found if each is not None]
    return min(known, key=lambda each: not each.confirmed, default=None)


def decide(
    content: bytes,
    evidence: Evidence,
    *,
    mode: Mode,
    force: bool,
    allow_shared_contact: bool = False,
) -> Decision:
    """The next step for a row whose payload hashes to `content`."""
    if evidence.disputed is not None:
        if allow_shared_contact:  # whoever has the contact now
            return Decision(Action.SEND)
        expected, answered = evidence.disputed
        disputed = DISPUTED.format(expected=expected, answered=answered)
        return Decision(Action.REJECT, None, disputed)
    conflict = _two_people(evidence)
    if conflict is not None:
        return Decision(Action.REJECT, None, conflict)
    leads_to = best_of(evidence.by_email, evidence.by_phone, evidence.by_row)
    if leads_to is not None:
        prospect_id: str | None = leads_to.prospect_id
        sent_to = prospect_id if leads_to.confirmed and leads_to != evidence.by_row else None
    else:
        prospect_id = _only(evidence.pulled_by_email | evidence.pulled_by_phone)
        sent_to = prospect_id
    if force:
        return Decision(Action.SEND, sent_to)
    if evidence.uncertain:
        return Decision(Action.UNCERTAIN, prospect_id, UNCERTAIN)
    receipt = evidence.receipt
    if evidence.stale is None and receipt is not None and receipt.ends_with([content]):
        reason = REPEATED if evidence.by_row is not None else None
        return Decision(Action.UNCHANGED, prospect_id, reason)
    if mode == "create-only" and prospect_id is not None and evidence.stale is None:
        return Decision(Action.UNCHANGED, prospect_id, EXISTS)
    return Decision(Action.SEND, sent_to, evidence.stale)


def decide_together(
    rows: Sequence[tuple[bytes, Evidence]],
    *,
    mode: Mode,
    force: bool,
    allow_shared_contact: bool = False,
) -> list[Decision]:
    """The next step for each row (content, evidence) of one person, in file order.

    Of several, none is sent where what was accepted last is these very rows in this order:
    applying them again would end where it began. Else each is sent in its turn, and compared
    once more with what was accepted by then.
    """

    def one(content: bytes, evidence: Evidence) -> Decision:
        return decide(
            content,
            evidence,
            mode=mode,
            force=force,
            allow_shared_contact=allow_shared_contact,
        )

    if len(rows) == 1:
        return [one(*rows[0])]
    each = [one(content, replace(evidence, receipt=None)) for content, evidence in rows]
    if not force and _repeat_the_tails(rows, each):
        return [Decision(Action.UNCHANGED, decision.prospect_id) for decision in each]
    return each


def _repeat_the_tails(rows: Sequence[tuple[bytes, Evidence]], each: list[Decision]) -> bool:
    sequences: dict[str, tuple[Receipt, list[bytes]]] = {}
    for (content, evidence), decision in zip(rows, each, strict=True):
        if decision.action is not Action.SEND or evidence.stale or evidence.receipt is None:
            return False
        contents = sequences.setdefault(evidence.receipt.prospect_id, (evidence.receipt, []))[1]
        if contents[-1:] != [content]:
            contents.append(content)
    return all(receipt.ends_with(contents) for receipt, contents in sequences.values())


def _two_people(evidence: Evidence) -> str | None:
    by_email = _ids(evidence.by_email) | evidence.pulled_by_email
    by_phone = _ids(evidence.by_phone) | evidence.pulled_by_phone
    if not by_email or not by_phone or by_email & by_phone:
        return None
    return TWO_PEOPLE.format(email_id=min(by_email), phone_id=min(by_phone))


def _ids(found: Found | None) -> frozenset[str]:
    if found is None or not found.confirmed:
        return frozenset()
    return frozenset({found.prospect_id})


def _only(ids: frozenset[str]) -> str | None:
    return next(iter(ids)) if len(ids) == 1 else None
