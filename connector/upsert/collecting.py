"""Python's cyclic garbage collector, told that a million short-lived rows are no garbage cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_ALLOCATED, _YOUNG, _MIDDLE = 100_000, 50, 100


@contextmanager
def rare_collections() -> Iterator[None]:
    """Look for cycles rarely while rows stream through; reference counts free the rows.

    At its own thresholds the collector walks each batch of rows, and all that is imported, again
    and again: 30 % of a plan's CPU time. Cycles are still found, so that memory stays bounded.
    """
    before = gc.get_threshold()
    gc.set_threshold(_ALLOCATED, _YOUNG, _MIDDLE)
    try:
        yield
    finally:
        gc.set_threshold(*before)
