"""Whether a prospect, as the API or a pull shows it, is what a payload asked for. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# How the API is to treat a write, not what the prospect is: two payloads that differ in these
# alone say the same.
MANNERS = frozenset({"update", "muteWebhook"})
# What is written under one name and read under another.
READ_AS = {"stageId": "currentStageId"}
# The contract names these in what is read, so an absent one is null; others may be write-only.
_ALWAYS_READ = frozenset(
    {"firstName", "lastName", "email", "phone", "currentStageId", "labels", "title", "company"}
)
_LEAST_DIGITS = 7


@dataclass(frozen=True)
class Comparison:
    """differs: fields whose value is another one. unseen: fields that can't be read at all."""

    differs: tuple[str, ...]
    unseen: tuple[str, ...]

    @property
    def equal(self) -> bool:
        return not self.differs and not self.unseen


def compare(payload: Mapping[str, Any], item: Mapping[str, Any]) -> Comparison:
    """`payload` as it was written against `item` as it is read. API names on both sides."""
    differs, unseen = [], []
    for name, wanted in payload.items():
        read_as = READ_AS.get(name, name)
        if name in MANNERS:
            continue
        if read_as not in item and read_as not in _ALWAYS_READ:
            unseen.append(name)
        elif not _same(name, wanted, item.get(read_as)):
            differs.append(name)
    return Comparison(tuple(differs), tuple(unseen))


def _same(name: str, wanted: Any, found: Any) -> bool:
    if name == "email":
        return same_email(wanted, found)
    if name == "phone":
        return same_phone(wanted, found)
    if name == "labels":
        return _labels(wanted) == _labels(found)
    if isinstance(wanted, str) and isinstance(found, str):
        return wanted.strip() == found.strip()
    return bool(wanted == found)


def same_email(one: Any, other: Any) -> bool:
    """Two addresses that reach one mailbox, as far as the API can tell: case doesn't count."""
    if isinstance(one, str) and isinstance(other, str):
        return one.strip().casefold() == other.strip().casefold()
    return not one and not other


def same_phone(one: Any, other: Any) -> bool:
    """Two spellings of one number; the shorter may lack the country code."""
    digits, others = _digits(one), _digits(other)
    if len(digits) < _LEAST_DIGITS or len(others) < _LEAST_DIGITS:
        return digits == others
    return digits.endswith(others) or others.endswith(digits)


def _digits(phone: Any) -> str:
    return re.sub(r"\D", "", phone).lstrip("0") if isinstance(phone, str) else ""


def _labels(labels: Any) -> list[str]:
    if isinstance(labels, str):
        labels = labels.split(",")
    return sorted({str(label).strip() for label in labels or ()})
