"""A full name in one column, split where it can only be split one way."""

from __future__ import annotations

import re

_WORD = r"[^\W\d_]+(?:['’\-‐‑][^\W\d_]+)*"  # letters, as in Anna-Lena or O'Neil
_TWO_WORDS = re.compile(rf"({_WORD})\s+({_WORD})")
_LAST_FIRST = re.compile(rf"({_WORD}),\s*({_WORD}(?:\s+{_WORD})*)")
# neither a first nor a last name, whatever stands beside it
_NO_NAMES = frozenset(
    [
        *("mr", "mrs", "ms", "mx", "miss", "dr", "prof", "sir", "madam", "herr", "frau", "mme"),
        *("mlle", "sr", "sra", "don", "dona", "jr", "ii", "iii", "iv", "phd", "md", "mba", "cpa"),
        *("esq", "rn", "inc", "llc", "ltd", "gmbh", "ag", "co", "corp", "company", "team", "group"),
        *("office", "the", "and", "und", "et", "y", "von", "van", "de", "der", "den", "del"),
        *("della", "di", "da", "dos", "la", "le", "bin", "ibn", "al", "el", "st"),
    ]
)


def split_name(name: str) -> tuple[str, str]:
    """(first name, last name) of `Ann Lee` or `Lee, Ann`.

    Raises:
        ValueError: which part is which can't be told.
    """
    if match := _TWO_WORDS.fullmatch(name):
        first, last = match.groups()
    elif match := _LAST_FIRST.fullmatch(name):
        last, first = match.groups()
    else:
        raise ValueError(_UNCERTAIN)
    if any(word.casefold() in _NO_NAMES for word in (*first.split(), last)):
        raise ValueError(_UNCERTAIN)
    return first, last


_UNCERTAIN = (
    "can't be split into first and last name with certainty. Write it as `Lee, Ann`, or give the "
    "two a column each"
)
