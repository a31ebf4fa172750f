"""Hashes that outlive a release."""

from __future__ import annotations

from connector.upsert.outbox.matching import Hasher


def test_aliases_stay_what_ledgers_already_hold():
    """An alias is BLAKE2b of `kind:value`, keyed and casefolded: another one would send every
    row of every ledger again."""
    hasher = Hasher(bytes(32))
    assert hasher.alias("email", "ada@example.org") == 5643082079592719076
    assert hasher.alias("email", "ADA@example.org") == 5643082079592719076
    assert hasher.alias("phone", "+14155550100") == -7468896156816163316


def test_contents_stay_what_receipts_already_hold():
    """The content of a payload has no manners in it, and no order."""
    content = Hasher(bytes(32)).content({"update": True, "lastName": "L", "firstName": "A"})
    assert content == Hasher(bytes(32)).content({"firstName": "A", "lastName": "L"})
    assert content.hex() == "422d1c82e3a9f21624947d6dc716b4c6"
