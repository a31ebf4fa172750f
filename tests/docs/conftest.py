"""What the tests of the pages share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import project
from tests.docs.browser import Browser, open_browser


@pytest.fixture(scope="session")
def readers_project(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[project.ReadersProject]:
    """A project that was pulled once, with a key for a mock API."""
    with project.readers_project(tmp_path_factory.mktemp("reader")) as found:
        yield found


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A real Chromium, for the pages of a test."""
    with open_browser(tmp_path) as found:
        yield found
