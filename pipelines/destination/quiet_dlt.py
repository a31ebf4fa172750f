"""dlt as a library inside a command: no telemetry, no signals of its own, no chatter, no leftovers.

dlt reads its configuration from the environment when its parts are made; `settle` comes before.
Its own way of credentials (`DESTINATION__POSTGRES__CREDENTIALS`, `.dlt/secrets.toml`) stays open.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dlt
from dlt.common.configuration.utils import get_resolved_traces

# forced: what would talk to others, take our signals, or keep personal data
_FORCED = {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__INTERCEPT_SIGNALS": "false",
    "ENABLE_RUNTIME_TRACE": "false",
    "LOAD__DELETE_COMPLETED_JOBS": "true",
    "LOAD__AUTO_ABORT_ON_TERMINAL_ERROR": "true",
    "LOAD__RAISE_ON_FAILED_JOBS": "true",
}
_DEFAULTS = {"RUNTIME__LOG_LEVEL": "CRITICAL", "LOAD__WORKERS": "4"}
PIPELINE_NAME = "hiringcenter"
SCHEMA_NAME = "hiringcenter"


def settle() -> None:
    """Put dlt's configuration where dlt looks for it."""
    os.environ.update(_FORCED)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    traces = get_resolved_traces()  # they hold frames, and so every row that was ever loaded
    traces.logging_enabled = False
    traces.clear()


def try_load_jobs(times: int) -> None:
    """How often a job is tried within one load, from now on in this process."""
    os.environ["LOAD__RAISE_ON_MAX_RETRIES"] = str(times)


def make_pipeline(destination: Any, dataset: str, pipelines_dir: Path) -> dlt.Pipeline:
    """The one dlt pipeline of a destination, working below `pipelines_dir`."""
    settle()
    return dlt.pipeline(
        PIPELINE_NAME,
        destination=destination,
        dataset_name=dataset,
        pipelines_dir=str(pipelines_dir),
    )
