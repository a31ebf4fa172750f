"""What can be told of the analysts' copy without opening it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from connector.settings import Settings
from pipelines.places import is_duckdb


@dataclass(frozen=True)
class PublishedCopy:
    """made_at: when it was published last; None where there is no file."""

    path: Path
    made_at: datetime | None

    def facts(self) -> dict[str, Any]:
        made_at = None if self.made_at is None else f"{self.made_at:%Y-%m-%dT%H:%M:%SZ}"
        return {"path": str(self.path), "published_at": made_at}

    def still(self) -> str:
        """A sentence for people, for when rows have landed that the copy lacks."""
        if self.made_at is None:
            return f"There is no copy at {self.path} yet"
        return f"The copy at {self.path} is still that of {self.made_at:%Y-%m-%d %H:%M:%S} UTC"


def published_copy(settings: Settings) -> PublishedCopy | None:
    """The copy of the settings' destination; None where readers use a server."""
    if not is_duckdb(settings):
        return None
    try:
        made_s = settings.duckdb_path.stat().st_mtime
    except OSError:
        return PublishedCopy(settings.duckdb_path, None)
    return PublishedCopy(settings.duckdb_path, datetime.fromtimestamp(made_s, UTC))
