"""Reading: scans over the API's lists, rows that fit their columns, and the dlt source.

`hiringcenter` is a `@dlt.source` for your own pipelines, `unfinished` and `flag_deleted` belong to
it; they are imported when they are asked for, since dlt takes its time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connector.api.envelopes import RESOURCES

if TYPE_CHECKING:
    from connector.source.dlt_source import hiringcenter
    from connector.source.own_pipeline import flag_deleted, unfinished

__all__ = ["RESOURCES", "flag_deleted", "hiringcenter", "unfinished"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from connector.source import dlt_source, own_pipeline

        return getattr(dlt_source if name == "hiringcenter" else own_pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
