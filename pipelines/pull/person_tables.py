"""A person in the tables of one dataset: whose rows they are, and removing them with what belongs
to them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from connector.settings import Settings
from connector.source import RESOURCES
from connector.source.row_maker import MALFORMED_TABLE, configured_privacy, variant_name
from connector.upsert.outbox.forgotten import (
    ContactHashes,
    PeopleToForget,
    contact_kind,
    identity_text,
    texts_in,
)
from pipelines.destination.loader import PIPELINE_NAME, state_without
from pipelines.destination.warehouse import DuckWarehouse, ServerWarehouse
from pipelines.destination.working_file import TableName, quoted_name
from pipelines.pull.run_tables import refuse_other_account
from pipelines.running.session import Session

PROSPECTS = "prospects"
_RESULTS, _STATES = "_hc_push_results", "_dlt_pipeline_state"
_MENTIONS = (
    (_RESULTS, "message", ("run_id", "row_number")), ("_hc_runs", "error", ("run_id",)),
    ("_hc_runs", "summary", ("run_id",)), ("_hc_freshness", "why_incomplete", ("resource",)),
)  # fmt: skip
_CONTACTS = ("email", "phone")
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")  # as a 64-bit column holds them
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_OTHERS_PEOPLE = (
    "the person would be removed from the other account's rows, and its next pull would bring "
    "them back. Nothing was removed"
)


class PersonTables:
    """The tables of one dataset, in a file or on a server. removed: counts what is. is_dry: it is
    only counted. is_plain_sql: of a server of which no more is known than that it has SQL."""

    def __init__(
        self,
        warehouse: DuckWarehouse | ServerWarehouse,
        settings: Settings,
        hashes: ContactHashes,
        removed: Counter[str],
        *,
        is_dry: bool,
        is_plain_sql: bool,
    ) -> None:
        self._warehouse, self._settings, self._hashes = warehouse, settings, hashes
        self._removed, self._is_dry, self._is_plain_sql = removed, is_dry, is_plain_sql
        self._columns: dict[str, set[str]] = {}

    def _has(self, table: str, *columns: str) -> bool:
        if table not in self._columns:
            self._columns[table] = {*self._warehouse.column_names(table)}
        return bool(self._columns[table]) and self._columns[table] >= {*columns}

    def _rows(self, what: str, table: str, where: str, ids: Sequence[str]) -> list[Any]:
        sql = f"SELECT {what} FROM {self._warehouse.name(table)} WHERE {where}"  # noqa: S608
        return self._execute(sql, ids)

    def _execute(self, sql: str, ids: Sequence[str]) -> list[Any]:
        warehouse = self._warehouse
        return warehouse.query_ids(sql, ids) if "{ids}" in sql else warehouse.query(sql)

    def _conditions(self, table: str, column: str, values: Sequence[str]) -> Iterator[str]:
        """SQL for rows that have one of the values, also where the API sent a number: that is in
        another column."""
        if values and self._has(table, column):
            yield f"{column} IN ({{ids}})"
            if numbers := [each for each in values if _INTEGER.fullmatch(each)]:
                for variant in self._number_columns(table, column):
                    yield f"{variant} IN ({', '.join(numbers)})"

    def _number_columns(self, table: str, column: str) -> list[str]:
        variants = [variant_name(column, data_type) for data_type in ("bigint", "double")]
        return [each for each in variants if self._has(table, each)]

    def refuse_other_account(self, session: Session) -> None:
        """
        Raises:
            OtherAccount: the rows aren't those of the key's account.
        """
        refuse_other_account(self._warehouse, session, _OTHERS_PEOPLE)

    # --- who it is --------------------------------------------------------------------------------

    def having(self, email: str) -> list[str]:
        """Ids of prospects who have this email, however it is spelled."""
        if not self._has(PROSPECTS, "id", "email"):
            return []
        if (hidden := self._hashes.hidden.get("email")) is not None:
            wanted = sorted({hidden(each) for each in (email, email.casefold(), email.lower())})
            return [id_ for (id_,) in self._rows("id", PROSPECTS, "email IN ({ids})", wanted)]
        # a part that is lower-cased alike everywhere finds candidates, which are compared here
        parts = _ASCII_WORD.findall(email.lower())
        like, own = f"%{max(parts, key=len, default='')}%", self._hashes.of_contact("email", email)
        sql = f"SELECT id, email FROM {self._warehouse.name(PROSPECTS)} WHERE lower(email) LIKE %s"  # noqa: S608
        rows = self._warehouse.query(sql, [like])
        return [id_ for id_, text in rows if own & aliases_of("email", text, self._hashes)]

    def has(self, prospect_id: str) -> bool:
        is_there = self._has(PROSPECTS, "id")
        return is_there and bool(self._rows("id", PROSPECTS, "id IN ({ids})", [prospect_id]))

    def every_id(self) -> list[str]:
        if not self._has(PROSPECTS, "id"):
            return []
        sql = f"SELECT id FROM {self._warehouse.name(PROSPECTS)}"  # noqa: S608 - a name of ours
        return [row[0] for row in self._warehouse.query(sql)]

    def contacts(self, prospect_id: str) -> list[tuple[str, str]]:
        """(kind, text) of every contact that the person has, or had by their history."""
        return [
            (kind, text)
            for table in (PROSPECTS, f"{PROSPECTS}_history")
            for kind in _CONTACTS
            if self._has(table, "id", kind)
            for column in (kind, *self._number_columns(table, kind))
            for (value,) in self._rows(column, table, "id IN ({ids})", [prospect_id])
            if (text := identity_text(value)) is not None
        ]

    def shared(self, contacts: Sequence[tuple[str, str]], but: Collection[str]) -> set[int]:
        """Aliases of those contacts that others have as well: a family's phone. but: not these
        people."""
        shared: set[int] = set()
        for kind, value in dict.fromkeys(contacts):
            if not (own := aliases_of(kind, value, self._hashes)):
                continue
            where, like = "lower(trim(email)) = %s", value.strip().lower()
            if kind == "phone":  # the last digits find a few candidates
                where, like = "phone LIKE %s", f"%{value.strip()[-2:]}"
            sql = f"SELECT id, {kind} FROM {self._warehouse.name(PROSPECTS)} WHERE {where}"  # noqa: S608
            for other, text in self._warehouse.query(f"{sql} AND _hc_deleted_at IS NULL", [like]):
                if other not in but:
                    shared |= own & aliases_of(kind, text, self._hashes)
        return shared

    # --- removing ---------------------------------------------------------------------------------

    def remove(self, people: PeopleToForget) -> None:
        """Remove the rows of these people and what belongs to them; the people themselves last, by
        whom a run that was killed finds the others."""
        ids = people.ids
        if isinstance(self._warehouse, DuckWarehouse) and not self._is_dry:
            self._warehouse.rename_seen([*ids, *self.belonging_to(ids)])
        self._empty_staging()
        self._remove_malformed(people)
        if not ids:
            return
        self._remove_mentions(people)
        self._change_states(ids)
        self._remove_rows(_RESULTS, "prospect_id", ids, "results")
        for resource in sorted(RESOURCES, key=lambda each: each == PROSPECTS):
            owner = "id" if resource == PROSPECTS else "prospect_id"
            owners = self._owners(resource, ids)
            self._remove_rows(f"{resource}_history", owner, owners, "history")
            self._remove_rows(resource, owner, owners, resource)

    def _owners(self, resource: str, ids: Sequence[str]) -> list[str]:
        """`ids` as the table has them, where the settings hash that column."""
        pull = self._settings.pull
        if resource == PROSPECTS or pull.hash_key is None:
            return [*ids]
        privacy = configured_privacy(resource, pull)
        if not privacy.hashes("prospectId"):
            return [*ids]
        sent = [*ids, *(float(each) for each in ids if _INTEGER.fullmatch(each))]  # 4711 as 4711.0
        return [*ids, *map(privacy.keyed_hash, sent)]

    def belonging_to(self, ids: Sequence[str]) -> list[str]:
        """Ids of their notes, tasks and meetings."""
        return [
            row[0]
            for name in RESOURCES
            if name != PROSPECTS and (owners := self._owners(name, ids))
            for where in self._conditions(name, "prospect_id", owners)
            for row in self._rows("id", name, where, owners)
        ]

    def _remove_rows(self, table: str, column: str, values: Sequence[str], place: str) -> None:
        for where in self._conditions(table, column, values):
            count = sum(int(row[0]) for row in self._rows("count(*)", table, where, values))
            self._removed[place] += count
            if count and not self._is_dry:
                sql = f"DELETE FROM {self._warehouse.name(table)} WHERE {where}"  # noqa: S608
                self._execute(sql, values)

    def _empty_staging(self) -> None:
        """What the last load left in dlt's staging tables, about any person."""
        if self._is_dry or self._is_plain_sql:
            return
        staging = f"{self._settings.dataset}_staging"
        found = self._warehouse.query(
            "SELECT table_name FROM information_schema.tables "
            "WHERE table_schema = %s AND table_type = 'BASE TABLE'",
            [staging],
        )
        for (table,) in found:
            if not table.startswith("_dlt_"):
                name = TableName(staging, table)
                self._warehouse.query(f"DELETE FROM {name}")  # noqa: S608 - quoted

    def drop_marts(self) -> None:
        """Of a copy that is put aside; they are made of its tables."""
        schema = f"{self._settings.dataset}_marts"
        if not self._is_dry:
            self._warehouse.query(f"DROP SCHEMA IF EXISTS {quoted_name(schema)} CASCADE")

    def _remove_malformed(self, people: PeopleToForget) -> None:
        if not self._has(MALFORMED_TABLE, "id", "content"):
            return
        ids, hashes = {*people.ids}, self._hashes

        def is_theirs(text: str) -> bool:
            return not people.contacts.isdisjoint(hashes.of_contact(contact_kind(text), text))

        sql = f"SELECT id, content FROM {self._warehouse.name(MALFORMED_TABLE)}"  # noqa: S608
        rows = self._warehouse.query(sql)
        theirs = [id_ for id_, content in rows if _names_one(content, ids, is_theirs)]
        self._remove_rows(MALFORMED_TABLE, "id", theirs, "malformed")

    def _remove_mentions(self, people: PeopleToForget) -> None:
        """Ids in texts about other rows and runs."""
        for table, column, key in () if self._is_plain_sql else _MENTIONS:
            if not self._has(table, column, *key):
                continue
            name, text = self._warehouse.name(table), f"CAST({column} AS VARCHAR)"
            sql = f"SELECT {', '.join(key)}, {text} FROM {name} WHERE {text} LIKE %s"  # noqa: S608
            which = " AND ".join(f"{each} = %s" for each in key)
            for id_ in people.ids:
                for *row, found in self._warehouse.query(sql, [f"%{id_}%"]):
                    if (plain := people.without_ids(found)) == found:
                        continue
                    self._removed["mentions"] += 1
                    if not self._is_dry:
                        change = f"UPDATE {name} SET {column} = %s WHERE {which}"  # noqa: S608
                        self._warehouse.query(change, [plain, *row])

    def _change_states(self, ids: Sequence[str]) -> None:
        """Ids that dlt's states remember, of rows that left their list, say."""
        if self._is_dry or not self._has(_STATES, "state", "_dlt_load_id"):
            return
        name = self._warehouse.name(_STATES)
        sql = f"SELECT _dlt_load_id, state FROM {name} WHERE pipeline_name = %s"  # noqa: S608
        for load, state in self._warehouse.query(sql, [PIPELINE_NAME]):
            if (plain := state_without(state, ids)) != state:
                change = f"UPDATE {name} SET state = %s WHERE _dlt_load_id = %s"  # noqa: S608
                self._warehouse.query(change, [plain, load])
                if isinstance(self._warehouse, DuckWarehouse):
                    self._warehouse.state_renamed(state, plain)


def aliases_of(kind: str, value: Any, hashes: ContactHashes) -> set[int]:
    """Of a contact as a table has it."""
    if kind in hashes.hidden and isinstance(value, str) and value.strip():
        return {hashes.of_hidden(kind, value)}
    return hashes.of_contact(kind, value)


def _names_one(content: str, ids: Collection[str], is_contact: Callable[[str], bool]) -> bool:
    """Whether a malformed record holds one of the ids or contacts."""
    try:
        record = json.loads(content)
    except ValueError:
        return any(id_ in content for id_ in ids)
    return any(text in ids or is_contact(text) for text in texts_in(record))
