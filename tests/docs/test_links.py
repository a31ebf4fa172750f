"""Links and files that the pages name lead somewhere."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT, Page, page, pages

WRITTEN_BY_USERS = {"config/hiringcenter.toml"}


@pytest.mark.parametrize("each", pages(), ids=lambda each: each.name)
def test_links_lead_to_pages_and_headings_that_exist(each: Page):
    """Relative links, with the heading after `#`; what is on the web is https."""
    for link in each.links:
        if "://" in link:
            assert link.startswith("https://"), link
            continue
        path, _, heading = link.partition("#")
        target = (ROOT / each.name).parent / path if path else ROOT / each.name
        assert target.exists(), link
        if heading:
            name = target.resolve().relative_to(ROOT).as_posix()
            assert heading in page(name).anchors, link


def test_every_page_is_reached_from_the_readme():
    """By links alone, over any number of pages."""
    found, waiting = set[str](), ["README.md"]
    while waiting:
        name = waiting.pop()
        if name in found or not name.endswith(".md"):
            continue
        found.add(name)
        folder = (ROOT / name).parent
        targets = [link.partition("#")[0] for link in page(name).links if "://" not in link]
        waiting += [
            (folder / target).resolve().relative_to(ROOT).as_posix() for target in targets if target
        ]
    assert {each.name for each in pages()} - found == {"docs/README.md"}  # docs/ itself shows it


def test_the_readme_is_one_screen():
    """Why, two commands, a picture and links; everything else is in docs/."""
    assert len(page("README.md").text.splitlines()) <= 70


@pytest.mark.parametrize("each", pages(), ids=lambda each: each.name)
def test_files_that_a_page_names_exist(each: Page):
    """Recipes, examples and modules."""
    for name in re.findall(r"`((?:config|connector|docs|pipelines|tests)/[\w./-]*)`", each.text):
        assert (ROOT / name).exists() or name in WRITTEN_BY_USERS, name
