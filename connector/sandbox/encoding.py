"""JSON bytes for whatever a record may hold, also for what orjson refuses."""

from __future__ import annotations

import json
from typing import Any

import orjson


def encode(value: Any) -> bytes:
    """JSON. Lone surrogates become escapes, integers of any size are written out."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()
