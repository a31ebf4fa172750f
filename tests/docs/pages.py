"""The pages that people read, and what is in them: blocks, commands, tables, links, headings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Page:
    """name: its path in the repository."""

    name: str
    text: str

    def blocks(self, language: str) -> list[str]:
        """The fenced blocks of one language."""
        return re.findall(rf"^```{language}\n(.*?)^```", self.text, re.MULTILINE | re.DOTALL)

    @property
    def commands(self) -> list[str]:
        """What stands after `$ `, without the remark behind it."""
        lines = [line for block in self.blocks("console") for line in block.splitlines()]
        return [re.split(r"\s+# ", line[2:])[0].strip() for line in lines if line.startswith("$ ")]

    def section(self, heading: str) -> str:
        """What is below `heading` (as it is written, without #), subsections included."""
        found = re.search(rf"^(#+) {re.escape(heading)}$", self.text, re.MULTILINE)
        assert found is not None, f"{self.name} has no section {heading!r}"
        rest = self.text[found.end() :]
        end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
        return rest[: end.start()] if end else rest

    @property
    def anchors(self) -> set[str]:
        """Where links may lead inside the page, as GitHub names headings."""
        headings = re.findall(r"^#+ (.+)$", _without_blocks(self.text), re.MULTILINE)
        return {
            re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
            for heading in headings
        }

    @property
    def links(self) -> list[str]:
        """Targets of all links and pictures."""
        return re.findall(r"\]\(([^)\s]+)\)", _without_blocks(self.text))


def rows(markdown: str) -> list[list[str]]:
    """The cells of each row of the tables in `markdown`, without heads and rules."""
    lines = [line for line in markdown.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def codes(cell: str) -> list[str]:
    """What is written as `code`."""
    return re.findall(r"`([^`]+)`", cell)


def pages() -> list[Page]:
    """README, the pages next to it, and all of docs/."""
    names = ["README.md", "CONTRIBUTING.md", "SECURITY.md"]
    names += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return [page(name) for name in names]


def page(name: str) -> Page:
    return Page(name, (ROOT / name).read_text())


def _without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
