"""Names and paths that follow from the settings; nothing is opened here."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from connector.settings import Settings, state_dir


@dataclass(frozen=True)
class Places:
    """Where one destination's working files live, all below the state directory.

    On DuckDB a destination is a file: several datasets (accounts) in it share a working file,
    since what analysts open is one copy of all of them.
    """

    state_dir: Path
    work_dir: Path
    pipelines_dir: Path

    @property
    def all_pipelines_dir(self) -> Path:
        """dlt's local files of every dataset in the working file."""
        return self.pipelines_dir.parent

    @property
    def unfinished_dir(self) -> Path:
        """Marks of scans that have landed rows and haven't ended."""
        return self.work_dir / "unfinished"

    @property
    def working_file(self) -> Path:
        """DuckDB only: the file that loads go to; what analysts open is a copy of it."""
        return self.work_dir / "_hc_working.duckdb"


def destination_label(settings: Settings) -> str:
    """What people call the destination: `duckdb:/data/x.duckdb#hiringcenter`."""
    if settings.destination == "duckdb":
        return f"{_place(settings)}#{settings.dataset}"
    return _place(settings)


def pull_lock_name(settings: Settings) -> str:
    """The lock of the one pull that may run per destination."""
    return f"pull into {_place(settings)}"


def places(settings: Settings) -> Places:
    """The working paths of the settings' destination."""
    place = _place(settings)
    digest = hashlib.sha256(place.encode()).hexdigest()[:10]
    name = settings.duckdb_path.stem if settings.destination == "duckdb" else settings.dataset
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    state_path = settings.state_path
    work_dir = state_path / "work" / f"{plain}-{digest}"
    return Places(state_path, work_dir, work_dir / "pipelines" / settings.dataset)


def _place(settings: Settings) -> str:
    """What only one pull may write at a time: a DuckDB file, or a dataset of a server."""
    if settings.destination == "duckdb":
        return f"duckdb:{settings.duckdb_path.absolute()}"
    return f"{settings.destination}:{_database_name(settings.destination)}#{settings.dataset}"


def prepare_state_dir(settings: Settings) -> Path:
    """Make the state directory, for this user alone; one of version 0.1 in the project moves in.

    Raises:
        ConfigurationError: it can't be made or written, or nothing can be loaded from its path.
        AlreadyRunning: a run of version 0.1 is at work.
    """
    return state_dir.prepare(settings.state_dir, old=settings.project.folder / state_dir.OLD_NAME)


def _database_name(destination: str) -> str:
    """A server's address as the dlt way of credentials gives it, without user and password."""
    variable = f"DESTINATION__{destination.upper()}__CREDENTIALS"
    url = os.environ.get(variable, "")
    return url.rpartition("@")[2] or "configured"
