"""The mapping file (TOML): what headers alone can't say.

`[columns]` input column = API field · `[constants]` API field = value, for every row ·
`ignore = [columns]`. Without it, headers match fields without regard to case, spaces, `_` and
`-`. Fields of the activities are written `note.body`, `task.dueAt` and so on.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping as AnyMapping
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connector.errors import BadMapping, nearest
from connector.upsert.rows.columns import ColumnPlan, match_columns
from connector.upsert.rows.field_names import field_called, field_like
from connector.upsert.rows.models import ACTIVITY_PREFIXES


@dataclass(frozen=True)
class Mapping:
    """A mapping file. place: its path, for people."""

    columns: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    place: str = "mapping"

    @classmethod
    def load(cls, path: str | Path) -> Mapping:
        """The mapping in the TOML file at `path`.

        Raises:
            BadMapping: no such file, no TOML, an unknown name, an unknown or doubled field.
        """
        place = str(path)
        table = _read(Path(path))
        for name in table:
            if name not in ("columns", "constants", "ignore"):
                known = nearest(name, ("columns", "constants", "ignore"))
                hint = f" Did you mean {known!r}?" if known else ""
                raise BadMapping(
                    place=place,
                    reason=f"unknown name {name!r}.{hint} It may hold [columns], [constants] "
                    "and ignore.",
                )
        ignore = table.get("ignore", [])
        if not isinstance(ignore, list) or not all(isinstance(name, str) for name in ignore):
            raise BadMapping(place=place, reason='ignore: expected a list, as in ["Remarks"]')
        columns = _section(table, "columns", place)
        _check_columns(columns, place)
        constants = _flat(_section(table, "constants", place))
        return cls(
            columns={name: _known_field(to, place, "columns") for name, to in columns.items()},
            constants={_known_field(to, place, "constants"): it for to, it in constants.items()},
            ignore=tuple(ignore),
            place=place,
        )

    @staticmethod
    def match(
        columns: Sequence[str],
        mapping: Mapping | None = None,
        ignore_unknown: bool = False,
        *,
        place: str = "input",
        from_table: bool = False,
    ) -> ColumnPlan:
        """Where each of `columns` goes.

        from_table: columns that the API only hands out (`id`, `created_at` …) are ignored, where
        they are errors in a file. The connector's own (`_hc_…`, `_dlt_…`) are ignored always.

        Raises:
            UnknownColumn: a column that neither the mapping nor a field's name explains.
            DoubledColumn: two columns for one field.
            BadMapping: the mapping names a column that the input hasn't.
            InputError: no column gives the first or the last name, or an activity its fields.
        """
        return match_columns(columns, mapping or Mapping(), ignore_unknown, place, from_table)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        reason = f"can't be read: {error.strerror}. Check --mapping."
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = f"can't be read as TOML: {error}."
    raise BadMapping(place=str(path), reason=reason)


def _section(table: AnyMapping[str, Any], name: str, place: str) -> dict[str, Any]:
    section = table.get(name, {})
    if not isinstance(section, dict):
        raise BadMapping(place=place, reason=f"[{name}]: expected a table of names and values.")
    return section


def _flat(section: AnyMapping[str, Any]) -> dict[str, Any]:
    """`note.body = "…"` is a table in a table in TOML; here it is the field `note.body`."""
    flat: dict[str, Any] = {}
    for name, value in section.items():
        if isinstance(value, dict) and name in ACTIVITY_PREFIXES:
            flat |= {f"{name}.{inner}": inner_value for inner, inner_value in value.items()}
        else:
            flat[name] = value
    return flat


def _check_columns(columns: AnyMapping[str, Any], place: str) -> None:
    for column, name in columns.items():
        if not isinstance(name, str):
            raise BadMapping(
                place=place,
                reason=f"[columns] {column!r}: expected the name of an API field. Quote a column "
                "whose name holds a dot or a space.",
            )


def _known_field(name: str, place: str, section: str) -> str:
    known = field_called(name)
    if known is None:
        like = field_like(name)
        hint = f" Did you mean {like!r}?" if like else ""
        raise BadMapping(place=place, reason=f"[{section}]: the API has no field {name!r}.{hint}")
    return known
