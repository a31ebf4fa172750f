"""The command line in this process: arguments in, exit code and output back."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog

from connector.sandbox import Sandbox, SandboxOptions
from pipelines.cli import main


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """The one JSON object, which is the last line of stdout, and the only one."""
        *before, last = self.out.splitlines()
        assert before == []
        found: dict[str, Any] = json.loads(last)
        return found


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs `hiringcenter` with arguments."""

    def run_command(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["hiringcenter", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        captured = capfd.readouterr()
        code = end.value.code
        return Ended(code if isinstance(code, int) else 0, captured.out, captured.err)

    mask = os.umask(0o022)
    yield run_command
    os.umask(mask)
    structlog.reset_defaults()  # it would keep writing to this test's captured stderr
    logging.getLogger().handlers.clear()


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A small sandbox, and an environment that points to it."""
    options = SandboxOptions(prospects=60, notes=40, tasks=30, meetings=0, api_key="k-9f2b7c31")
    with Sandbox(options) as running:
        monkeypatch.setenv("HIRINGCENTER_API_KEY", running.api_key)
        monkeypatch.setenv("HIRINGCENTER_BASE_URL", running.url)
        monkeypatch.setenv("HIRINGCENTER_RATE_LIMITS", "1000000/60s")
        monkeypatch.setenv("HIRINGCENTER_MARTS__ENABLED", "false")  # they have tests of their own
        yield running
