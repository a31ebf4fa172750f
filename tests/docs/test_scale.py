"""docs/explanation/scale.md: the figures are those of the simulation."""

from __future__ import annotations

import pytest

from tests.bench.scale import COLUMNS, figures, pulled
from tests.docs.pages import page

SCALE = page("docs/explanation/scale.md")


@pytest.mark.parametrize(
    ("people", "full_share"),
    [(100_000, 0.1), (1_000_000, 0.1), (10_000_000, 0.1), (10_000_000, 0.5)],
)
def test_the_table_of_sizes_is_what_the_simulation_says(people: int, full_share: float):
    """Whoever changes the plan changes the table."""
    first, *others = figures(pulled(people, full_share=full_share))
    first += "" if full_share == 0.1 else f", `full_share = {full_share}`"
    assert f"| {' | '.join(COLUMNS)} |" in SCALE.text
    assert f"| {' | '.join([first, *others])} |" in SCALE.text
