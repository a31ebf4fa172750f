"""A random sample of the rows that have landed: how it is drawn, and what it shows about all of
them, in numbers and in words.

A sample of n rows, k of them wrong, bounds the share of wrong rows: with 95 % confidence it is at
most the largest share for which k or fewer wrong ones would be found more often than one time in
twenty (Clopper and Pearson's bound). Where it is known of how many rows the sample was taken, the
chance is the hypergeometric one, which is exact too, and the bound smaller.
"""

from __future__ import annotations

import math
import random
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from connector.errors import UsageError
from connector.settings import Settings
from connector.source import RESOURCES
from connector.source.fields import DELETED_COLUMN, UNLISTED_COLUMN, as_ms
from pipelines.destination.load_errors import translated
from pipelines.destination.loader import own_columns
from pipelines.destination.warehouse import CopyWarehouse, ServerWarehouse
from pipelines.destination.working_file import quoted_name
from pipelines.running.progress import plural, requests_in_words, text_table
from pipelines.running.session import open_tables

if TYPE_CHECKING:
    from rich.table import Table

CONFIDENCE = 0.95
Row = dict[str, Any]
_IN_ONE_QUERY = 1000
_LIVE = f"{DELETED_COLUMN} IS NULL"
_LISTED_DIFFERENCES = 20
_RARE = 1 - CONFIDENCE - 1e-9  # sums of logarithms are inexact: rather too high a bound


class _CopyColumns(CopyWarehouse):
    """The tables of the file that analysts open."""

    def quoted_column(self, column: str) -> str:
        return quoted_name(column)


class _ServerColumns(ServerWarehouse):
    """The tables on a server, by dlt's schema of them."""

    def columns(self) -> dict[str, dict[str, dict[str, Any]]]:
        pipeline = self._pipeline()
        with translated():
            pipeline.sync_destination()
        if pipeline.default_schema_name is None:
            return {}
        return own_columns(pipeline.default_schema.tables)

    def quoted_column(self, column: str) -> str:
        return str(self._pipeline().sql_client().escape_column_name(column))


ReadTables = _CopyColumns | _ServerColumns
"""What has landed, opened for reading."""


@contextmanager
def open_landed(settings: Settings) -> Iterator[ReadTables]:
    """See `open_tables`.

    Raises:
        UsageError: nothing was published yet. DestinationError: it can't be read.
    """
    with open_tables(settings, _CopyColumns, _ServerColumns) as tables:
        if tables is None:
            path = settings.duckdb_path
            raise UsageError(f"There is no copy at {path} yet. Run `hiringcenter pull`.")
        yield tables


@dataclass
class SampledList:
    """A list's rows in the destination. sample: in random order. pulled_ms: when the last pull of
    it began, by our clock; complete_ms: the last scan that is proven complete, if any was."""

    name: str
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rows: int = 0
    listed: int = 0
    pulled_ms: int | None = None
    complete_ms: int | None = None
    sample: list[Row] = field(default_factory=list)
    total_count: int | None = None
    why_not: str | None = None


def read_sample(tables: ReadTables, known: SampledList, most: int, chance: random.Random) -> None:
    """Count its rows that aren't flagged deleted, and read `most` of them, chosen at random."""
    name = tables.name(known.name)
    has_unlisted = UNLISTED_COLUMN in known.columns
    listed = f"sum(CASE WHEN {UNLISTED_COLUMN} IS NULL THEN 1 ELSE 0 END)"
    counts = f"count(*), {listed if has_unlisted else 'count(*)'}"
    ((rows, listed_rows),) = tables.query(f"SELECT {counts} FROM {name} WHERE {_LIVE}")  # noqa: S608 - ours
    known.rows, known.listed = int(rows), int(listed_rows or 0)
    places = chance.sample(range(1, known.rows + 1), min(most, known.rows))
    if len(places) == known.rows:
        ids = [row[0] for row in tables.query(f"SELECT id FROM {name} WHERE {_LIVE}")]  # noqa: S608
    else:
        numbered = f"SELECT id, row_number() OVER (ORDER BY id) AS place FROM {name} WHERE {_LIVE}"  # noqa: S608
        ids = [
            row[0]
            for some in _portions(places)
            for row in tables.query(
                f"SELECT id FROM ({numbered}) numbered WHERE place IN ({', '.join(map(str, some))})"  # noqa: S608
            )
        ]
    found = rows_of(tables, known, ids)
    known.sample = [found[each] for each in ids if each in found]
    chance.shuffle(known.sample)


def rows_of(tables: ReadTables, known: SampledList, ids: Sequence[str]) -> dict[str, Row]:
    """Rows that aren't flagged deleted, by id."""
    names = list(known.columns)
    quoted = ", ".join(map(tables.quoted_column, names))  # a field's name may be a keyword
    found: dict[str, Row] = {}
    for some in _portions(ids):
        sql = (
            f"SELECT {quoted} FROM {tables.name(known.name)} "  # noqa: S608 - names of ours
            f"WHERE {_LIVE} AND id IN ({', '.join(['%s'] * len(some))})"
        )
        for row in tables.query(sql, some):
            cells = dict(zip(names, row, strict=True))
            found[str(cells["id"])] = cells
    return found


def _portions(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    yield from (values[at : at + _IN_ONE_QUERY] for at in range(0, len(values), _IN_ONE_QUERY))


def note_freshness(
    tables: ReadTables, columns: Mapping[str, Any], lists: Mapping[str, SampledList]
) -> None:
    """When each list was pulled, as the destination itself says: so it fits the rows."""
    if "_hc_freshness" not in columns:
        return
    sql = f"SELECT resource, last_pull_at, last_complete_at FROM {tables.name('_hc_freshness')}"  # noqa: S608
    for resource, pulled_at, complete_at in tables.query(sql):
        if resource in lists:
            lists[resource].pulled_ms = as_ms(pulled_at)
            lists[resource].complete_ms = as_ms(complete_at)


# --- what it shows --------------------------------------------------------------------------------


def upper_bound(wrong: int, compared: int, population: int | None = None) -> float:
    """The share of wrong rows that isn't exceeded with 95 % confidence; 1.0 if none was compared.

    wrong: how many of the `compared` rows, which were chosen at random, are wrong. population: of
    how many rows they were chosen, where that is known; if all of them were compared, the share is
    no estimate.
    """
    if compared == 0:
        return 1.0
    if population is None:
        return _binomial_bound(wrong, compared)
    if population == compared:
        return wrong / compared
    possible = range(wrong + 1, population - (compared - wrong) + 1)  # more than were seen
    more = bisect_left(
        possible, True,
        key=lambda each: _hypergeometric_tail(wrong, compared, each, population) <= _RARE,
    )  # fmt: skip
    return (wrong + more) / population


def _binomial_bound(wrong: int, compared: int) -> float:
    if wrong == compared:
        return 1.0
    least, most = wrong / compared, 1.0
    for _ in range(60):  # halves the interval each time, down to what a float can distinguish
        middle = (least + most) / 2
        if _binomial_tail(wrong, compared, middle) > _RARE:
            least = middle
        else:
            most = middle
    return most


def _hypergeometric_tail(k: int, n: int, wrong: int, population: int) -> float:
    """The chance of k wrong rows or fewer among n, where `wrong` of the population are."""
    of_all = _log_choose(population, n)
    least = max(0, n - (population - wrong))
    return sum(
        math.exp(_log_choose(wrong, i) + _log_choose(population - wrong, n - i) - of_all)
        for i in range(least, min(k, wrong, n) + 1)
    )


def _binomial_tail(k: int, n: int, share: float) -> float:
    if share >= 1.0:
        return 0.0 if k < n else 1.0
    yes, no = math.log(share) if share else -math.inf, math.log1p(-share)
    terms = (_log_choose(n, i) + (i * yes if i else 0.0) + (n - i) * no for i in range(k + 1))
    return sum(map(math.exp, terms))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def rows_to_show(max_wrong: float, population: int | None = None, *, share: float = 0.0) -> int:
    """How many rows have to be compared until the bound can be `max_wrong`; all of the population
    at most. share: of them that will be wrong, if it continues as before; below `max_wrong`."""

    def suffices(compared: int) -> bool:
        return upper_bound(round(share * compared), compared, population) <= max_wrong

    most = population or 1
    while population is None and not suffices(most) and most < 10**8:
        most *= 2
    return 1 + bisect_left(range(1, most), True, key=suffices)


class Draw:
    """Draws rows at random from several lists, as from one urn: each row at most once.

    rows: by list, how many it has.
    """

    def __init__(self, rows: Mapping[str, int], chance: random.Random) -> None:
        self._left, self._chance = dict(rows), chance

    def next(self) -> str | None:
        """The list that the next row is of; None if no row is left."""
        total = sum(self._left.values())
        if total == 0:
            return None
        place = self._chance.randrange(total)
        for name, left in self._left.items():
            if place < left:
                self._left[name] -= 1
                return name
            place -= left
        raise AssertionError

    def leave_out(self, name: str) -> None:
        """Draw no more rows of this list."""
        self._left[name] = 0


# --- shares, for people ---------------------------------------------------------------------------


def verdict(at_most: float, share: float, max_wrong: float) -> str:
    """`within` what is acceptable; `above` it, by the rows that were compared; `too_few` of these
    to decide."""
    if at_most <= max_wrong:
        return "within"
    return "above" if share >= max_wrong else "too_few"


def parse_share(text: str) -> float:
    """`1%`, `0.5%` or `0.01` as a share.

    Raises:
        UsageError: anything else.
    """
    digits, is_percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    if re.fullmatch(r"\d+(\.\d+)?", digits.strip()):
        share = float(digits) / 100 if is_percent else float(digits)
        if 0 <= share <= 1 and (is_percent or share < 1):
            return share
    raise UsageError(f"--max-wrong {text!r} isn't a share of the rows. Write 1%, 0.5% or 0.01.")


def percent(share: float) -> str:
    """A share in percent with two digits, rounded up: `1%`, `0.34%`, `12%`."""
    if share <= 0:
        return "0%"
    digits = 1 - math.floor(math.log10(share * 100))
    scale = 10.0**digits
    rounded = math.ceil(round(share * 100 * scale, 6)) / scale
    return f"{rounded:.{max(0, digits)}f}".rstrip("0").rstrip(".") + "%" if digits > 0 else (
        f"{rounded:.0f}%"
    )  # fmt: skip


def verify_lines(summary: Mapping[str, Any]) -> list[Any]:
    """A table of the lists, the differences, and what they show. summary: of a verification."""
    if "error" in summary and not summary["rows"]:  # it ended before anything was read
        return []
    return [_list_table(summary), *_difference_lines(summary), *_notes(summary)]


def _list_table(summary: Mapping[str, Any]) -> Table:
    counts = ("rows", "total_count", "compared", "wrong", "late", "not_checked")
    titles = ("rows", "in HiringCenter", "compared", "wrong", "late", "not checked")
    rows = (
        [name, *("" if facts[each] is None else f"{facts[each]:,}" for each in counts)]
        for name, facts in summary["resources"].items()
    )
    return text_table(["resource", *titles], rows, right=titles)


def _difference_lines(summary: Mapping[str, Any]) -> Iterator[str]:
    differences = summary["differences"]
    for each in differences[:_LISTED_DIFFERENCES]:
        fields = ", ".join(each["fields"])
        if each["fields"] == [DELETED_COLUMN]:
            fields = "deleted in HiringCenter, and not flagged here"
        yield f"Differs: {each['resource']} {each['id']}: {fields}"
    if (more := len(differences) - _LISTED_DIFFERENCES) > 0:
        yield f"… and {more:,} more; --json lists them all."


def _notes(summary: Mapping[str, Any]) -> Iterator[str]:
    for name, facts in summary["resources"].items():
        if why := facts.get("why_not_checked"):
            yield f"{name}: not checked: {why}."
        if left_out := facts.get("fields_left_out"):
            yield (
                f"{name}: not compared, since only lists or only look-ups return "
                f"{'it' if len(left_out) == 1 else 'them'}: {', '.join(left_out)}."
            )
    if late := summary["late"]:
        yield f"{plural(late, 'row')} edited or deleted since the last pull: late, not wrong."
    if unread := summary["not_checked"]:
        yield f"{plural(unread, 'row')} can't be read by id at the moment, so not checked."
    yield from _conclusion(summary)
    yield requests_in_words(summary)


def _conclusion(summary: Mapping[str, Any]) -> Iterator[str]:
    wrong, compared, rows = summary["wrong"], summary["compared"], summary["rows"]
    most, allowed = percent(summary["at_most"]), percent(summary["max_wrong"])
    if rows == 0:
        yield "The copy has no rows yet, so none is wrong."
        return
    if summary["confidence"] == 1.0:
        yield (
            f"{wrong:,} of {compared:,} rows differ: {most} are wrong. Every row that can be "
            "compared was."
        )
    else:
        yield (
            f"{wrong:,} of {compared:,} differ: at most {most} of {plural(rows, 'row')} are wrong, "
            "with 95% confidence."
        )
    if summary["verdict"] == "above":
        yield f"More than {allowed} may be wrong. `hiringcenter pull --full` reads all rows again."
    elif summary["verdict"] == "too_few":
        takes, names = summary["takes"], summary["resources"]
        chosen = "" if len(names) == len(RESOURCES) else " ".join(["", *names])
        yield (
            f"That is too few to decide whether at most {allowed} are wrong. It takes "
            f"{plural(takes, 'row')}: hiringcenter verify{chosen} --requests {takes}"
        )
