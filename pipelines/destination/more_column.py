"""Fields that can't be columns at a destination land in the JSON column `_hc_more`, by API name.

Most are known beforehand: names of system columns, more columns than a table may have, more values
than fit into one of PostgreSQL's rows of 8 kB. Others show up when a load is refused: then the
fields that are new to the table move, and the column's schema remembers them, so that later loads
aren't refused. If that isn't enough, every field that the API's contract doesn't name moves, for
this load only.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pyarrow as pa

from connector.source.fields import CONTRACT, FIELD_HINT
from connector.source.row_maker import column_name, is_reserved
from pipelines.destination.loader import Batch

MORE_COLUMN = "_hc_more"
_REMEMBERED = "x-hc-moved"  # a hint of MORE_COLUMN: columns that were refused
_SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
_NOT_COLUMNS = {
    "postgres": _SYSTEM_COLUMNS,
    "redshift": _SYSTEM_COLUMNS | {"oid", "insertxid", "deletexid"},
}
_MAX_COLUMNS = {"postgres": 1600, "redshift": 1600, "mssql": 1024, "synapse": 1024}
_SPARE_COLUMNS = 20  # for those that are ours or dlt's
# of a page of 8192, left for optional values; long ones are stored outside, by an 18-byte pointer
_MAX_BYTES = {"postgres": 7000}
_BYTES = {"bool": 1, "text": 21, "json": 21}  # at most, alignment included; others 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Columns = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Form:
    """What to load. warnings: by table, which fields moved to `_hc_more`, and how often."""

    batches: Sequence[Batch]
    warnings: Mapping[str, Counter[str]]


def forms(
    destination: str, batches: Sequence[Batch], known: Mapping[str, Columns]
) -> Iterator[Form]:
    """What to load; then, each time the load is refused, the same rows with fewer columns.

    destination: its name, as dlt calls it. known: by table, the columns at the destination.
    """
    optional = {batch.table: _optional(batch) for batch in batches}
    impossible = {
        batch.table: _impossible(destination, batch, optional[batch.table], known[batch.table])
        for batch in batches
    }
    new = {table: names - set(known[table]) for table, names in optional.items()}
    before = None
    for more, is_remembered in ((impossible, True), (new, True), (optional, False)):
        moving = {table: names | impossible[table] for table, names in more.items()}
        if moving == before:
            continue
        before = moving
        moves = [
            _Move(destination, batch, known[batch.table], optional[batch.table])
            for batch in batches
        ]
        narrowed = [move.without(moving[move.batch.table], is_remembered) for move in moves]
        yield Form(narrowed, {move.batch.table: move.warnings for move in moves if move.warnings})


def _optional(batch: Batch) -> set[str]:
    """Columns of fields that the contract doesn't name."""
    if batch.table not in CONTRACT:
        return set()
    own = {column_name(name) for name in CONTRACT[batch.table]}
    return {name for name in batch.columns if name not in own and not is_reserved(name)}


def _impossible(destination: str, batch: Batch, optional: set[str], known: Columns) -> set[str]:
    found = optional & {*_NOT_COLUMNS.get(destination, ()), *_remembered(known)}
    if destination in _MAX_COLUMNS:
        new = [name for name in batch.columns if name in optional - found - set(known)]
        others = {*known, *batch.columns} - set(new) - found
        found |= set(new[max(0, _MAX_COLUMNS[destination] - _SPARE_COLUMNS - len(others)) :])
    return found


def _remembered(known: Columns) -> Sequence[str]:
    return tuple(known.get(MORE_COLUMN, {}).get(_REMEMBERED, ()))


class _Move:
    """Moves columns of a batch, and single values of rows that are too big."""

    def __init__(self, destination: str, batch: Batch, known: Columns, optional: set[str]) -> None:
        self.batch = batch
        self.warnings: Counter[str] = Counter()
        self._destination, self._known, self._optional = destination, known, optional
        self._more: dict[int, dict[str, Any]] = defaultdict(dict)

    def without(self, names: set[str], is_remembered: bool) -> Batch:
        """The batch without the columns `names`."""
        batch, max_bytes = self.batch, _MAX_BYTES.get(self._destination)
        if max_bytes is not None and len(batch.columns) * max(_BYTES.values()) <= max_bytes:
            max_bytes = None
        if not names and max_bytes is None:
            return batch
        rows = batch.as_table()
        for name in sorted(names):
            self._move(name, enumerate(rows[name].to_pylist()))
        rows = rows.drop_columns(sorted(names))
        if max_bytes is not None:
            rows = self._without_oversized_values(rows, max_bytes)
        if not (names or self._more):
            return batch
        more: dict[str, Any] = {"name": MORE_COLUMN, "data_type": "json", "nullable": True}
        if remembered := {*_remembered(self._known), *(names if is_remembered else ())}:
            more[_REMEMBERED] = sorted(remembered)
        columns = {name: batch.columns[name] for name in rows.column_names} | {MORE_COLUMN: more}
        texts = [_json(self._more[at]) if at in self._more else None for at in range(len(rows))]
        rows = rows.append_column(MORE_COLUMN, pa.array(texts, pa.string()))
        return replace(batch, rows=rows, columns=columns)

    def _move(self, name: str, values: Iterable[tuple[int, Any]]) -> None:
        """Move a column's values, by row, under the API's name."""
        column = self.batch.columns[name]
        field = str(column.get(FIELD_HINT, name))
        warning = f"field {field} can't be a column of {self._destination}"
        for at, value in values:
            if value is not None:
                is_json = column["data_type"] == "json"
                self._more[at][field] = orjson.Fragment(value) if is_json else _plain(value)
                self.warnings[f"{warning}; kept in {MORE_COLUMN}"] += 1

    def _without_oversized_values(self, rows: pa.Table, max_bytes: int) -> pa.Table:
        sizes = [0] * len(rows)
        for index, name in enumerate(rows.column_names):
            if name not in self._optional:
                continue
            size = _BYTES.get(self.batch.columns[name]["data_type"], 8)
            values, moved = rows[name].to_pylist(), []
            for at, value in enumerate(values):
                sizes[at] += 0 if value is None else size
                if value is not None and sizes[at] > max_bytes:
                    moved.append((at, value))
                    values[at] = None
            if moved:
                self._move(name, moved)
                kept = pa.array(values, rows.schema.field(name).type)
                rows = rows.set_column(index, rows.schema.field(name), kept)
        return rows


def _json(values: Mapping[str, Any]) -> str:
    return orjson.dumps(values, option=orjson.OPT_SORT_KEYS).decode()


def _plain(value: Any) -> Any:
    """A time as in the API: Unix milliseconds."""
    return (value - _EPOCH) // timedelta(milliseconds=1) if isinstance(value, datetime) else value
