"""CONTRIBUTING.md: its picture is what the imports are, and its table of tests is whole."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter

from tests.bench.__main__ import names
from tests.docs.pages import ROOT, codes, page, rows
from tests.unit.test_layers import MODULES_MAX, imports_between_parts, imports_within_parts

PICTURE = re.compile(r"^(?:connector|pipelines)\.\w+ +-> .*$", re.MULTILINE)
INNER = re.compile(r"^connector\.\w+(?:\.\w+|/\*) +-> .*$", re.MULTILINE)


def drawn(picture: re.Pattern[str] = PICTURE) -> dict[str, set[str]]:
    """Part → what it imports directly, as the picture has it."""
    found = {}
    for line in picture.findall(page("CONTRIBUTING.md").text):
        name, _, targets = (piece.strip() for piece in line.partition("->"))
        top = name.partition(".")[0]
        names = [] if targets == "nothing" else targets.split(", ")
        found[name] = {each if "." in each else f"{top}.{each}" for each in names}
    return found


def reduced(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """`arrows` without those that others imply; it must not have cycles."""
    reached: dict[str, set[str]] = {}
    for part in TopologicalSorter(arrows).static_order():
        below = arrows.get(part, set())
        reached[part] = below.union(*(reached[each] for each in below))
    return {
        part: {each for each in below if not any(each in reached[other] for other in below)}
        for part, below in arrows.items()
    }


def test_the_picture_is_what_the_imports_are():
    """Each part with the arrows that no other arrow implies."""
    found = reduced(imports_between_parts())
    shown = drawn()
    assert {name: shown[name] for name in sorted(shown)} == {
        name: found[name] for name in sorted(found)
    }


def test_the_picture_of_sub_packages_is_what_the_imports_are():
    """`connector.upsert/*` stands for its own modules, those in no sub-package."""
    found = {
        name if name.count(".") > 1 else f"{name}/*": others
        for name, others in reduced(imports_within_parts()).items()
    }
    assert drawn(INNER) == found


def test_the_number_of_modules_is_named():
    """The bound that the layer tests hold."""
    assert f"at most {MODULES_MAX} of them" in " ".join(page("CONTRIBUTING.md").text.split())


def test_every_folder_of_tests_and_every_bench_is_listed():
    """Folders in CONTRIBUTING.md, benches on the page on speed."""
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    found = {"tests/bench", *("/".join(path.relative_to(ROOT).parts[:2]) for path in folders)}
    listed = {
        code.rstrip("/") for row in rows(page("CONTRIBUTING.md").text) for code in codes(row[0])
    }
    assert listed == found
    speed = rows(page("docs/explanation/speed.md").text)
    assert {code for row in speed for code in codes(row[0])} == set(names([]))
