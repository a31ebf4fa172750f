"""Imports flow one way; the arrows are drawn here once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# each part: what it may import of ours
MAY_IMPORT = {
    "connector.errors": set(),
    "connector.clock": set(),
    "connector.logs": {"connector.errors"},
    "connector.settings": {"connector.errors"},
    "connector.budget": {"connector.errors", "connector.clock", "connector.logs"},
    "connector.history": {
        "connector.errors", "connector.clock", "connector.logs", "connector.budget",
    },
    "connector.api": {
        "connector.errors", "connector.clock", "connector.logs", "connector.budget",
    },
    "connector.source": {
        "connector.errors", "connector.clock", "connector.logs", "connector.settings",
        "connector.budget", "connector.api",
    },
    "connector.upsert": {
        "connector.errors", "connector.clock", "connector.logs", "connector.settings",
        "connector.budget", "connector.api",
    },
    "connector.sandbox": set(),
}  # fmt: skip


def _part(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _imports(path: Path, module: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide the arrows"
            if node.module == "connector":  # from connector import settings
                yield from (f"connector.{alias.name}" for alias in node.names)
            elif node.module:
                yield node.module


def _modules() -> list[tuple[str, Path]]:
    paths = sorted((ROOT / "connector").rglob("*.py"))
    return [
        (".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path)
        for path in paths
    ]


@pytest.mark.parametrize(("module", "path"), _modules(), ids=lambda value: str(value))
def test_a_part_imports_only_what_lies_below_it(module: str, path: Path):
    """Nothing in connector imports upwards, sideways, or from pipelines."""
    part = _part(module)
    for imported in _imports(path, module):
        assert not imported.startswith(("pipelines", "tests")), f"{module} imports {imported}"
        if imported.startswith("connector.") and _part(imported) != part:
            if imported == "connector.__version__":
                continue
            assert part in MAY_IMPORT, f"{module}: draw its arrows in this test"
            assert _part(imported) in MAY_IMPORT[part], f"{module} imports {imported}"


def test_only_the_dags_know_airflow():
    """The connector and its commands run where Airflow isn't installed, and the other way round."""
    for path in [*(ROOT / "connector").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]:
        imports = set(_imports(path, path.stem))
        if "dags" in path.parts:
            assert not any(name.startswith(("connector", "pipelines")) for name in imports), path
        else:
            assert not any(name.split(".")[0] == "airflow" for name in imports), path
