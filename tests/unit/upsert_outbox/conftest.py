"""Pushes without a network: an outbox of the test's own, and a fake API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_clock import FakeClock
from tests.pushes.fake_api import FakeApi
from tests.pushes.rig import Rig


@pytest.fixture
def api() -> FakeApi:
    return FakeApi(FakeClock())


@pytest.fixture
def rig(api: FakeApi, tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(f"sqlite:///{tmp_path / 'ledger.db'}", api, clock=api.clock)
    yield rig
    rig.close()
