"""People whom a pull has read, for many tests: pulling takes longer than most of what they do."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from connector.sandbox import Sandbox, SandboxOptions
from connector.sandbox.state import State
from connector.settings import Settings
from pipelines.pull.pull_run import Wanted, pull

_FRESH_S = 43_200.0


class ReusedSandbox(Sandbox):
    """One server on one port, for tests that each find nothing of the one before."""

    def begin_again(self, options: SandboxOptions) -> None:
        self.webhooks.stop()
        State.__init__(self, options)

    def raise_failure(self) -> None:
        """What leaving the `with` raises, after each test."""
        if self.failures:
            raise self.failures[0]


class PulledOnce:
    """A sandbox and the files of a pull of its prospects, made once and restored by `begin`.

    people: in addition to those of the options. What was pulled counts as fresh for hours, so that
    no slow machine makes it old. run_id: the pull's. Close it.
    """

    def __init__(
        self,
        folder: Path,
        options: SandboxOptions,
        people: Iterable[Mapping[str, Any]] = (),
        **settings: Any,
    ) -> None:
        self._folder, self._template = folder / "now", folder / "template"
        self._options = options
        self.sandbox = ReusedSandbox(replace(options))
        self.sandbox.start()
        self._people = [self.sandbox.store.create("prospects", each) for each in people]
        self.settings = Settings(
            api_key=self.sandbox.api_key,
            base_url=self.sandbox.url,
            rate_limits="60000/60s",
            state_dir=self._folder / "state",
            duckdb_path=self._folder / "data.duckdb",
            marts={"enabled": False},  # which have tests of their own
            writes={"fresh_s": _FRESH_S},
            **{"http": {"retry_total_s": 2.0}, **settings},
        )
        report = pull(self.settings, Wanted(("prospects",), full=True))
        assert report.error is None
        self.run_id = report.summary["run_id"]
        shutil.copytree(self._folder, self._template)

    def begin(self) -> Sandbox:
        """Everything as it was right after the pull, but for the log of requests."""
        self.sandbox.begin_again(replace(self._options))
        for person in self._people:
            self.sandbox.store.put("prospects", person)
        shutil.rmtree(self._folder)
        shutil.copytree(self._template, self._folder)
        return self.sandbox

    def end(self) -> None:
        """After each test."""
        self.sandbox.raise_failure()

    def close(self) -> None:
        self.sandbox.stop()
