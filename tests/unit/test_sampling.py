"""What a sample of rows shows about all of them."""

from __future__ import annotations

import random
from fractions import Fraction
from math import comb

import pytest

from connector.errors import UsageError
from pipelines.pull.sampling import (
    Draw,
    parse_share,
    percent,
    rows_to_show,
    upper_bound,
    verdict,
)


def _chance_of_so_few(wrong: int, sample: int, are_wrong: int, population: int) -> Fraction:
    """The chance of `wrong` wrong rows or fewer in a sample, in exact integers."""
    ways = sum(
        comb(are_wrong, i) * comb(population - are_wrong, sample - i) for i in range(wrong + 1)
    )
    return Fraction(ways, comb(population, sample))


@pytest.mark.parametrize(
    ("wrong", "compared", "at_most"),
    [
        (0, 1, 0.95),
        (0, 10, 1 - 0.05 ** (1 / 10)),
        (0, 300, 1 - 0.05 ** (1 / 300)),  # 0.993 %: the rule of three says 1 %
        (1, 10, 0.394163),  # Clopper and Pearson's tables
        (2, 20, 0.282619),
        (5, 100, 0.102253),
        (10, 10, 1.0),
    ],
)
def test_the_bound_is_the_one_of_the_tables(wrong: int, compared: int, at_most: float):
    """With no wrong row of n it is 1 - 0.05^(1/n), about 3/n."""
    assert upper_bound(wrong, compared) == pytest.approx(at_most, abs=1e-6)


@pytest.mark.parametrize(("wrong", "compared", "population"), [
    (0, 5, 10), (0, 30, 100), (1, 30, 100), (3, 50, 60), (0, 300, 301), (7, 99, 4000),
])  # fmt: skip
def test_of_a_known_population_it_is_the_largest_share_that_explains_the_sample(
    wrong: int, compared: int, population: int
):
    """One wrong row more in the population, and so few in the sample would be rarer than 5 %."""
    are_wrong = round(upper_bound(wrong, compared, population) * population)
    twentieth = Fraction(1, 20)
    assert _chance_of_so_few(wrong, compared, are_wrong, population) > twentieth
    assert _chance_of_so_few(wrong, compared, are_wrong + 1, population) <= twentieth


def test_of_a_big_population_it_is_the_bound_without_one():
    """A million rows are as good as endlessly many."""
    assert upper_bound(3, 300, 1_000_000) == pytest.approx(upper_bound(3, 300), abs=1e-5)


def test_all_rows_leave_nothing_to_estimate():
    """The share is the one that was seen; of no rows it could be anything."""
    assert upper_bound(1, 40, 40) == 1 / 40
    assert upper_bound(0, 40, 40) == 0
    assert upper_bound(0, 0) == upper_bound(0, 0, 500) == 1


def test_how_many_rows_it_takes():
    """299 rows without a wrong one show that at most 1 % are wrong, and 298 don't."""
    assert rows_to_show(0.01) == 299
    assert upper_bound(0, 299) <= 0.01 < upper_bound(0, 298)
    assert rows_to_show(0.05) == 59
    assert rows_to_show(0.01, 400) < 299
    assert rows_to_show(0.0, 400) == 381  # one wrong row is missed less than once in twenty
    takes = rows_to_show(0.01, share=1 / 300)
    assert upper_bound(round(takes / 300), takes) <= 0.01


@pytest.mark.parametrize("altered", [0, 10, 40])
def test_the_bound_covers_the_truth_in_95_of_100_samples(altered: int):
    """1,000 samples of 300 of 2,000 rows, of which 0, 0.5 and 2 % were altered: the bound is
    below the truth in one of twenty at most."""
    chance, bounds, covered = random.Random(altered), dict[int, float](), 0
    for _ in range(1000):
        wrong = sum(place < altered for place in chance.sample(range(2000), 300))
        bound = bounds.setdefault(wrong, upper_bound(wrong, 300, 2000))
        covered += bound >= altered / 2000
    assert covered >= 950


def test_rows_are_drawn_as_from_one_urn():
    """Every row once; of the first draws, each list has its share."""
    rows = {"prospects": 600, "notes": 300, "tasks": 0}
    draw = Draw(rows, random.Random(7))
    drawn = [draw.next() for _ in range(900)]
    assert draw.next() is None
    assert {name: drawn.count(name) for name in rows} == rows
    assert 160 <= drawn[:270].count("prospects") <= 200


def test_a_list_that_is_left_out_is_drawn_no_more():
    """The others are."""
    draw = Draw({"prospects": 3, "notes": 2}, random.Random(7))
    draw.leave_out("prospects")
    assert [draw.next() for _ in range(3)] == ["notes", "notes", None]


@pytest.mark.parametrize(("share", "text"), [
    (0.0, "0%"), (0.00993, "1%"), (0.01, "1%"), (0.0123, "1.3%"), (0.000234, "0.024%"),
    (0.282, "29%"), (1.0, "100%"),
])  # fmt: skip
def test_a_share_in_percent_is_never_rounded_down(share: float, text: str):
    """Two digits are enough, and a bound must not look smaller than it is."""
    assert percent(share) == text


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), ("0.5 %", 0.005), ("0.02", 0.02),
                                             ("0%", 0.0), ("100%", 1.0)])  # fmt: skip
def test_a_share_is_written_in_percent_or_as_a_fraction(text: str, share: float):
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["1", "5", "101%", "-1%", "one", "", "nan%"])
def test_an_invalid_share_is_refused(text: str):
    """Also a bare 1, which could be 1 % or all rows."""
    with pytest.raises(UsageError):
        parse_share(text)


def test_too_many_wrong_rows_and_too_few_compared_differ():
    """Wrong rows that are more than allowed are one thing, too few rows to decide another."""
    assert verdict(0.0099, 0.0, 0.01) == "within"
    assert verdict(0.05, 0.0, 0.01) == "too_few"
    assert verdict(0.05, 0.02, 0.01) == "above"
