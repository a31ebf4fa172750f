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


def test_what_webhooks_would_cost_is_what_the_simulation_says():
    small, large = (figures(pulled(people, has_events=True))[2] for people in (100_000, 1_000_000))
    costs = f"a day costs {small} requests for 100,000 people and {large} for 1 million"
    assert costs in " ".join(SCALE.text.split())
