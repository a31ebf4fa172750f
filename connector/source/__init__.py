"""Reading: scans over the API's lists, rows that fit their columns, and the public dlt source.

`hiringcenter` is a plain `@dlt.source` for anybody's pipeline; it is loaded when it is asked for,
since dlt takes its time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connector.source.fields import RESOURCES

if TYPE_CHECKING:
    from connector.source.dlt_source import hiringcenter

__all__ = ["RESOURCES", "hiringcenter"]


def __getattr__(name: str) -> Any:
    if name == "hiringcenter":
        from connector.source.dlt_source import hiringcenter

        return hiringcenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
