"""Files as spreadsheets and scripts leave them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

WriteFile = Callable[..., Path]
INPUTS = Path(__file__).parents[2] / "inputs"


@pytest.fixture
def write(tmp_path: Path) -> WriteFile:
    """write("a;b\\n", "cp1252") → the path of a file with these bytes."""

    def write_file(content: str | bytes, encoding: str = "utf-8", name: str = "people.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return write_file
