"""dlt's DuckDB destination, asked once what it can do.

dlt asks for the capabilities some twenty times a load, and reads every place where configuration
might be each time: nearly half of what a small load costs.
"""

from __future__ import annotations

from typing import Any

from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.normalizers.naming import NamingConvention
from dlt.destinations import duckdb


class DuckDb(duckdb):
    """Like its base in all but speed, in its name and type too."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self._known: dict[str | None, DestinationCapabilitiesContext] = {}

    @property
    def destination_type(self) -> str:
        return "dlt.destinations.duckdb"

    def capabilities(
        self, config: Any = None, naming: NamingConvention | None = None
    ) -> DestinationCapabilitiesContext:
        if config is not None:
            return super().capabilities(config, naming)
        name = naming.name() if naming else None
        if name not in self._known:
            self._known[name] = super().capabilities(None, naming)
        return self._known[name].copy()
