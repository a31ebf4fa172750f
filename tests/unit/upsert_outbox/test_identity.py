"""Hashes that outlive a release, and the collector that plans turn down."""

from __future__ import annotations

import gc

import pytest

from connector.upsert.outbox.matching import Hasher
from connector.upsert.outbox.planner import rare_collections


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


def test_collector_is_as_it_was_after_a_plan_that_failed():
    """Its thresholds are the process's, not ours."""
    before = gc.get_threshold()
    with rare_collections():
        assert gc.get_threshold() != before
    with pytest.raises(KeyError), rare_collections():
        raise KeyError
    assert gc.get_threshold() == before
