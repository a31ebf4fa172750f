"""Imports flow one way; the arrows are drawn here once, and names are unique."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOPS = ("connector", "pipelines")
_INSIDE = ("connector.", "pipelines.")
MODULES_MAX = 110  # without the sandbox

# each part: what it may import of ours
MAY_IMPORT = {
    "connector.errors": set(),
    "connector.clock": set(),
    "connector.logs": {"connector.errors"},
    "connector.settings": {"connector.errors"},
    "connector.budget": {"connector.errors", "connector.clock", "connector.logs"},
    "connector.runs": {
        "connector.errors", "connector.clock", "connector.logs", "connector.budget",
    },
    "connector.api": {
        "connector.errors", "connector.clock", "connector.logs", "connector.settings",
        "connector.budget",
    },
    "connector.source": {
        "connector.errors", "connector.clock", "connector.logs", "connector.settings",
        "connector.budget", "connector.api",
    },
    "connector.upsert": {
        "connector.errors", "connector.clock", "connector.logs", "connector.settings",
        "connector.budget", "connector.api",
    },
    "connector.webhooks": {
        "connector.errors", "connector.clock", "connector.logs", "connector.settings",
        "connector.budget",
    },
    "connector.sandbox": set(),
}  # fmt: skip


@cache
def modules() -> Mapping[str, Path]:
    """Every module of ours by name, packages by theirs."""
    found = {}
    for path in sorted(path for top in TOPS for path in (ROOT / top).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text())


def _statements(tree: ast.Module, *, with_types: bool) -> Iterator[ast.AST]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        test = node.test if isinstance(node, ast.If) else None
        if with_types or not (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"):
            yield node
            waiting += [each for each in ast.iter_child_nodes(node) if not _is_expression(each)]


def _is_expression(node: ast.AST) -> bool:
    return isinstance(node, ast.expr | ast.expr_context | ast.arguments)


@cache
def imports(module: str, *, with_types: bool = True) -> frozenset[str]:
    """Names that `module` imports, those of our modules in full, functions' own imports too.

    with_types: what only type checkers follow as well.
    """
    found = set()
    for node in _statements(_tree(module), with_types=with_types):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide the arrows"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in modules() else str(node.module))
    return frozenset(found)


def _part(module: str) -> str:
    return ".".join(module.split(".")[:2])


def imports_between_parts() -> dict[str, set[str]]:
    """Part (such as connector.api) → the other parts that it imports."""
    found: dict[str, set[str]] = {}
    for module in modules():
        if module not in TOPS:
            parts = {_part(name) for name in imports(module) if name.startswith(_INSIDE)}
            found.setdefault(_part(module), set()).update(parts - {_part(module)})
    return found


def imports_within_parts() -> dict[str, set[str]]:
    """Sub-package (such as connector.upsert.rows) → the others of its part that it imports; a part
    stands for its modules in none. What an `__init__` re-exports isn't an arrow."""
    found: dict[str, set[str]] = {}
    for module, path in modules().items():
        package = module.rpartition(".")[0]
        if path.name != "__init__.py" and package not in TOPS:
            own = found.setdefault(package, set())
            for name in imports(module):
                is_package = name in modules() and modules()[name].name == "__init__.py"
                other = name if is_package else name.rpartition(".")[0]
                if _part(other) == _part(package) and other != package:
                    own.add(other)
    parts = {_part(package) for package in found if package.count(".") > 1}
    return {package: others for package, others in found.items() if _part(package) in parts}


@pytest.mark.parametrize("module", [name for name in modules() if name.startswith("connector.")])
def test_a_part_imports_only_what_lies_below_it(module: str):
    """Nothing in connector imports upwards, sideways, or from pipelines."""
    part = _part(module)
    assert part in MAY_IMPORT, f"{module}: draw its arrows in this test"
    for imported in imports(module):
        assert not imported.startswith(("pipelines", "tests")), f"{module} imports {imported}"
        if imported.startswith("connector.") and _part(imported) != part:
            assert _part(imported) in MAY_IMPORT[part], f"{module} imports {imported}"


def test_only_the_dags_know_their_schedulers():
    """The connector and its commands run where neither Airflow nor Dagster is installed; the DAG
    runs where the connector isn't, and Dagster's assets know its dlt source alone."""
    for module in modules():
        imported = {name.split(".")[0] for name in imports(module)}
        if not module.startswith("pipelines.dags"):
            assert not imported & {"airflow", "dagster", "dagster_dlt"}, module
        elif "dagster" in imported:
            ours = {name for name in imports(module) if name.split(".")[0] in TOPS}
            assert ours == {"connector.source"}, module
        else:
            assert not imported & {*TOPS}, module


def test_http_libraries_are_imported_in_one_place():
    """httpx is this connector's HTTP library, by its users' choice. httpcore, on which it is built,
    is imported only where sockets are opened; `test_requests_are_sent_by_httpx` sees the rest."""
    others = {"http.client", "urllib3", "requests", "aiohttp", "h11", "h2", "pycurl"}
    for module in modules():
        imported = imports(module)
        assert not imported & others, module
        if module.startswith("connector.") and module != "connector.api.transport":
            assert not imported & {"httpx", "httpcore"}, module


def cycles(arrows: Mapping[str, set[str]]) -> list[set[str]]:
    """Groups that import one another in a circle (strongly connected components)."""
    reached: dict[str, set[str]] = {}
    for start in arrows:
        found, waiting = set[str](), [start]
        while waiting:
            new = arrows.get(waiting.pop(), set()) - found
            found |= new
            waiting += new
        reached[start] = found
    rings = {
        frozenset(other for other in reached[name] if name in reached.get(other, set()))
        for name in arrows
        if name in reached[name]
    }
    return [set(ring) for ring in rings]


def test_no_module_imports_itself_in_a_circle():
    """Functions' own imports count: they hide a circle, and don't break it."""
    arrows = {
        module: {name for name in imports(module, with_types=False) if name in modules()} - {module}
        for module in modules()
    }
    assert cycles(arrows) == []


def test_no_package_imports_itself_in_a_circle():
    """Sub-packages too; what a package's own __init__ re-exports isn't an arrow."""
    arrows: dict[str, set[str]] = defaultdict(set)
    for module, path in modules().items():
        package = module.rpartition(".")[0]
        if path.name != "__init__.py":
            for name in imports(module, with_types=False):
                if name in modules():
                    is_package = modules()[name].name == "__init__.py"
                    other = name if is_package else name.rpartition(".")[0]
                    if other != package and not other.startswith("connector.sandbox"):
                        arrows[package].add(other)
    assert cycles(arrows) == []


def _outside_the_sandbox() -> list[str]:
    return [name for name in modules() if not name.startswith("connector.sandbox")]


def test_modules_are_few():
    """Each is a whole topic: for one more, two that are one topic become one."""
    own = [name for name in _outside_the_sandbox() if modules()[name].name != "__init__.py"]
    assert len(own) <= MODULES_MAX


def test_a_module_name_is_used_once():
    """So that a name says which module is meant; packages' __init__ and the sandbox apart."""
    owners = defaultdict(list)
    for module in _outside_the_sandbox():
        if modules()[module].name != "__init__.py":
            owners[module.rpartition(".")[2]].append(module)
    doubled = {name for name, found in owners.items() if len(found) > 1}
    assert not doubled, {name: owners[name] for name in doubled}


def test_a_class_name_is_used_once():
    """So that a search for it finds one class; the sandbox apart."""
    owners = defaultdict(list)
    for module in _outside_the_sandbox():
        for node in _tree(module).body:
            if isinstance(node, ast.ClassDef):
                owners[node.name.lstrip("_")].append(module)
    doubled = {name for name, found in owners.items() if len(found) > 1}
    assert not doubled, {name: owners[name] for name in doubled}
