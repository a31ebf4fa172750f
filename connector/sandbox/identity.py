"""Ids and noise from serial numbers, and back: nothing has to be remembered to find a record."""

from __future__ import annotations

from functools import lru_cache

_ID_SPACE = 1 << 128
_ID_FACTOR = 0x9E3779B97F4A7C15F39CC0605CEDC835  # odd, so multiplication permutes the ids
_ID_INVERSE = pow(_ID_FACTOR, -1, _ID_SPACE)
_MASK = (1 << 64) - 1


def noise(seed: int, salt: int, serial: int) -> int:
    """64 well mixed bits (splitmix64)."""
    x = serial * 0x9E3779B97F4A7C15 + seed * 0xD1B54A32D192ED03 + salt * 0x8CB92BA72F3D8DD7
    x &= _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def id_of(seed: int, salt: int, serial: int) -> str:
    """32 hexadecimal digits, different for every serial number."""
    return f"{(serial * _ID_FACTOR + _offset(seed, salt)) % _ID_SPACE:032x}"


def serial_of(seed: int, salt: int, record_id: str) -> int | None:
    """The number whose id this is; None for what is no id at all. Any well-formed id has one."""
    try:
        serial = (int(record_id, 16) - _offset(seed, salt)) * _ID_INVERSE % _ID_SPACE
    except ValueError:
        return None
    return serial if id_of(seed, salt, serial) == record_id else None


@lru_cache(maxsize=64)
def _offset(seed: int, salt: int) -> int:
    return noise(seed, salt, 1 << 40) << 64 | noise(seed, salt, 1 << 41)
