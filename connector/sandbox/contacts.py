"""When two emails or two phones are the same one, and which are valid at all."""

from __future__ import annotations

import re
from typing import Any

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
_PHONE_NOISE = re.compile(r"[\s().\-/]")
_PHONE = re.compile(r"\+?\d{8,15}")


def email_key(value: Any) -> str | None:
    """Lower case, without spaces around; None for what is no email."""
    if not isinstance(value, str) or not _EMAIL.fullmatch(value.strip()):
        return None
    return value.strip().lower()


def phone_key(value: Any) -> str | None:
    """`+` and 8 to 15 digits, ten digits being a US number; None for what is no phone."""
    if not isinstance(value, str):
        return None
    bare = _PHONE_NOISE.sub("", value)
    if not _PHONE.fullmatch(bare):
        return None
    if bare.startswith("+"):
        return bare
    return f"+1{bare}" if len(bare) == 10 else f"+{bare}"
