"""Give freed memory back: a long pull's peak is to be what it holds, not what it once held.

glibc makes an arena for every thread, and each keeps what was freed in it. Between them, the
threads that fetch, load and copy kept more than a hundred megabytes of a million rows' pull.
"""

from __future__ import annotations

import ctypes

import pyarrow as pa

# malloc.h of glibc; `man 3 mallopt`
_M_TRIM_THRESHOLD, _M_ARENA_MAX = -1, -8
_ARENAS = 2
_KEPT_BYTES = 128 * 1024


def settle() -> None:
    """Few arenas, trimmed early, Arrow's buffers among them. Other C libraries stay as they are."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # Windows, macOS, musl: no such function
        return
    mallopt(_M_ARENA_MAX, _ARENAS)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    pa.set_memory_pool(pa.system_memory_pool())
