"""docs/explanation/scale.md: the figures are those of the simulation."""

from __future__ import annotations

import pytest

from tests.bench.scale import COLUMNS, edited_account, figures, pulled
from tests.docs.pages import page
from tests.simulator.accounts import percentile

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


def test_what_a_day_of_edits_costs_is_what_the_simulation_says():
    with_events, without = (edited_account(has_events=each) for each in (True, False))
    age_s = percentile(without.edit_ages_s("prospects"), 0.95)
    text = " ".join(SCALE.text.split())
    assert f"a day costs {with_events.requests_daily():,.0f} requests with webhooks" in text
    assert f"which is {without.requests_daily():,.0f}, and 95 of 100 edits are seen within" in text
    assert f"within {age_s / 60:.0f} min." in text
    assert with_events.requests_daily() <= 14_424 / 4


def test_what_webhooks_cost_is_what_the_simulation_says():
    small, large = (figures(pulled(people, has_events=True))[2] for people in (100_000, 1_000_000))
    costs = f"a day costs {small} requests for 100,000 people and {large} for 1 million"
    assert costs in " ".join(SCALE.text.split())
