"""What the tests of the pages share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docs import project


@pytest.fixture(scope="session")
def readers_project(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[project.ReadersProject]:
    """A project that was pulled once, with a key for a mock API."""
    with project.readers_project(tmp_path_factory.mktemp("reader")) as found:
        yield found
