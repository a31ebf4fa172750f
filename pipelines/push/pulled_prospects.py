"""What a push sees of the last pull: the published copy, or the tables on a server; read only."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from threading import RLock
from typing import Any

import duckdb
import orjson
import pyarrow as pa

from connector.budget import Lane
from connector.errors import DestinationError
from connector.settings import Settings
from connector.source.fields import as_ms
from connector.source.list_pages import ListPages
from connector.upsert.looking import PageOfPeople, ProspectScan
from connector.upsert.outbox.evidence import Near, Pulled, PulledProspect
from connector.upsert.outbox.matching import READ_AS, labels_read, same_phone
from connector.upsert.outbox.merge import CONTACTS
from connector.upsert.outbox.outbox import PROSPECTS
from connector.upsert.rows import MANNERS
from connector.upsert.rows.write_schema import PROSPECT_FIELDS
from pipelines.destination.warehouse import CopyWarehouse, ServerWarehouse
from pipelines.running.session import Session, open_tables

_IN_ONE_QUERY = 1_000
_KEY_DIGITS = 7  # at a phone's end: enough to find a few candidates, which are then compared
_MOST_SHARED = 8  # prospects with one contact, of those that are compared in DuckDB
_LIVE = "AND _hc_deleted_at IS NULL"
_ID, _EMAIL = "id", "lower(email)"
_PHONE_END = f"right(regexp_replace(phone, '[^0-9]', '', 'g'), {_KEY_DIGITS})"
_COLUMN_OF = {_ID: "id", _EMAIL: "email", _PHONE_END: "phone"}
_KEY_OF: dict[str, Callable[[Any], Any]] = {  # the same of values that were read
    _EMAIL: lambda email: email and email.lower(),
    _PHONE_END: lambda phone: phone and re.sub("[^0-9]", "", phone)[-_KEY_DIGITS:],
}
_Wanted = Mapping[str, Collection[str]]  # key → the values that it is to have one of
_Rows = list[tuple[Any, ...]]
_TEXTS = frozenset((str, list, bool))  # labels are a list; what is to be done, `update`, is a bool


@contextmanager
def open_pulled(settings: Settings) -> Iterator[Pulled]:
    """The destination as pushes see it; empty where nothing has been pulled yet."""
    with open_tables(settings, _PublishedCopy, _ServerTables) as tables:
        columns = tables.column_names("prospects") if tables else []
        if tables is None or not columns:
            yield Pulled()
            return
        if "id" not in columns:  # without it, two people can't be distinguished
            raise DestinationError(
                f"{settings.dataset}.prospects has no column id, so it isn't the table that a pull "
                "makes. Rename it, or set HIRINGCENTER_DATASET to another schema, then pull."
            )
        hidden = settings.pull.prospects.hash_columns
        readable = [name for name in columns if name not in {*hidden, *map(_snake, hidden)}]
        complete_ms = None
        if tables.column_names("_hc_freshness"):
            freshness = tables.name("_hc_freshness")
            sql = f"SELECT max(last_complete_at) FROM {freshness} WHERE resource = 'prospects'"  # noqa: S608 - ours
            complete_ms = as_ms(tables.query(sql)[0][0])
        with ThreadPoolExecutor(1, "hiringcenter-copy") as executor:
            found = (
                CopiedProspects(tables, readable, complete_ms=complete_ms, executor=executor)
                if isinstance(tables, _PublishedCopy)
                else PulledProspects(tables, readable, complete_ms=complete_ms)
            )
            found.page_size = settings.pull.page_size
            found.has_results = bool(tables.column_names("_hc_push_results"))
            yield found


def scan_of_prospects(session: Session) -> ProspectScan:
    """A scan of all prospects, in the lane of pushes, of about as many pages as the copy has."""
    settings, clock = session.settings, session.budget.steady_clock
    size = settings.pull.page_size

    def count_pages() -> int | None:
        try:
            with open_pulled(settings) as pulled:
                return pulled.scan_pages
        except DestinationError:  # it was needed for the plan, and isn't for sending
            return None

    def read() -> Iterator[PageOfPeople]:
        pages = ListPages(session.client, PROSPECTS, {}, page_size=size, lane=Lane.PUSH)
        asked_ms, seen = clock.now_ms(), set[str]()
        for step in pages:
            items, total = step.page.items, step.page.total_count
            announced = None
            if total is not None and items and not seen:  # later pages may be shorter
                announced = math.ceil(total / len(items))
            seen |= {str(item.get("id")) for item in items if isinstance(item, dict)}
            is_last = step.next_params is None and step.page.cut is None
            is_whole = len(seen) >= total if total is not None else not step.is_full
            yield PageOfPeople(items, asked_ms, pages=announced, ends=is_last and is_whole)
            asked_ms = clock.now_ms()

    return ProspectScan(count_pages, read)


def rows_sent_before(settings: Settings) -> int:
    """How many rows earlier pushes have written, as far as the destination knows.

    Raises:
        DestinationError: it can't be read.
    """
    with open_tables(settings, _PublishedCopy, _ServerTables) as tables:
        if tables is None or not tables.column_names("_hc_push_results"):
            return 0
        ((count,),) = tables.query(
            f"SELECT count(*) FROM {tables.name('_hc_push_results')} "  # noqa: S608 - a name of ours
            "WHERE status IN ('created', 'updated')"
        )
        return int(count)


class _PublishedCopy(CopyWarehouse):
    """The tables of the file that analysts open."""

    _has_places = False

    @property
    def dataset(self) -> str:
        return self._dataset

    def __init__(self, connection: duckdb.DuckDBPyConnection, dataset: str) -> None:
        super().__init__(connection, dataset)
        self._lock = RLock()  # two threads can't use one connection at once

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> _Rows:
        with self._lock:
            return super().query(sql, parameters)

    def find_places(self, keys: Collection[str]) -> None:
        """Keep in memory where the rows of each key are, by its hash, 8 bytes each: else DuckDB
        reads all emails, and takes all phones apart, for each chunk of a push."""
        hashes = ", ".join(f"hash({key}) AS of_{_COLUMN_OF[key]}" for key in keys)
        with self._lock:
            if not self._has_places:
                self.query(
                    f"CREATE TEMP TABLE places AS SELECT rowid AS place, {hashes} "  # noqa: S608
                    f"FROM {self.name('prospects')}"
                )
            self._has_places = True

    def rows_with(self, columns: Sequence[str], wanted: _Wanted, more: str) -> _Rows:
        which = {}
        for key, values in wanted.items():
            column = _COLUMN_OF[key]
            self.register(f"wanted_{column}", {"value": values})
            which[column] = f"SELECT hash(value) FROM wanted_{column}"  # noqa: S608 - ours
        return self.query(f"SELECT {', '.join(columns)} {self.among(which)} {more}")

    def register(self, name: str, columns: Mapping[str, Collection[Any]]) -> None:
        """Make rows a table; all its columns are text, but for a `position`."""
        arrays = {
            column: pa.array(values, pa.int64() if column == "position" else pa.string())
            for column, values in columns.items()
        }
        with self._lock:
            self._connection.register(name, pa.table(arrays))

    def among(self, hashes: Mapping[str, str]) -> str:
        """The FROM and WHERE of those who have one of some contacts or ids. hashes: of which, as a
        query."""
        which = " OR ".join(f"of_{column} IN ({query})" for column, query in hashes.items())
        places = f"SELECT place FROM places WHERE {which}"  # noqa: S608 - all names are ours
        return f"FROM {self.name('prospects')} WHERE rowid IN ({places})"

    def ms_of(self, column: str) -> str:
        return f"epoch_ms({column})"


class _ServerTables(ServerWarehouse):
    """The tables on a server. Databases differ in how they lower letters and take phones apart, so
    contacts are compared here: all are read once, and their places kept in memory, by hash."""

    _places: duckdb.DuckDBPyConnection | None = None

    def find_places(self, keys: Collection[str]) -> None:
        if self._places is not None:
            return
        columns = [_COLUMN_OF[key] for key in keys]
        sql = f"SELECT {', '.join(columns)} FROM {self.name('prospects')} WHERE 1 = 1 {_LIVE}"  # noqa: S608
        hashes = ", ".join(f"hash({key}) AS of_{_COLUMN_OF[key]}" for key in keys)
        self._places = duckdb.connect()
        for number, rows in enumerate(self.portions(sql)):
            cells = zip(*rows, strict=True)
            arriving = {
                name: pa.array(values, pa.string())
                for name, values in zip(columns, cells, strict=True)
            }
            self._places.register("arriving", pa.table(arriving))
            into = "INSERT INTO places" if number else "CREATE TABLE places AS"
            self._places.execute(f"{into} SELECT id, {hashes} FROM arriving")  # noqa: S608

    def rows_with(self, columns: Sequence[str], wanted: _Wanted, more: str) -> _Rows:
        ids = set(wanted.get(_ID, ()))
        for key, values in wanted.items():
            if key != _ID:
                ids |= self._ids_with(key, values)
        asked = [_COLUMN_OF.get(column, column) for column in columns]
        sql = (
            f"SELECT {', '.join(asked)} FROM {self.name('prospects')} WHERE id IN ({{ids}}) {more}"  # noqa: S608
        )
        found = self.query_ids(sql, sorted(ids))
        made = {at: _KEY_OF[column] for at, column in enumerate(columns) if column in _KEY_OF}
        if not made:
            return found
        return [
            tuple(made[at](cell) if at in made else cell for at, cell in enumerate(row))
            for row in found
        ]

    def _ids_with(self, key: str, values: Collection[str]) -> set[str]:
        assert self._places is not None
        self._places.register("wanted", pa.table({"value": pa.array(values, pa.string())}))
        try:
            found = self._places.execute(
                f"SELECT id FROM places WHERE of_{_COLUMN_OF[key]} IN "  # noqa: S608 - ours
                "(SELECT hash(value) FROM wanted)"
            ).fetchall()
        except duckdb.CatalogException:  # of a table without rows
            return set()
        return {id_ for (id_,) in found}

    def ms_of(self, column: str) -> str:
        return column


_Tables = _PublishedCopy | _ServerTables


# A row that DuckDB finds to be as its person is never compared in Python. What it decides is never
# more than `Near.alike` would (a test compares both): of a contact that many have, and of text that
# other programs fold in another way, it says nothing.
_ALIKE = f"""
WITH found AS MATERIALIZED (
    SELECT *, lower(email) AS email_key, regexp_replace(phone, '[^0-9]', '', 'g') AS digits,
        right(digits, {_KEY_DIGITS}) AS phone_key, ltrim(digits, '0') AS plain_digits
    FROM (SELECT {{columns}} {{among}} {_LIVE})
),
crowded AS (
    SELECT email_key AS key FROM found GROUP BY ALL HAVING count(*) > {_MOST_SHARED}
    UNION ALL SELECT phone_key FROM found GROUP BY ALL HAVING count(*) > {_MOST_SHARED}
),
asked AS (
    SELECT * FROM wanted
    WHERE (email_key IS NULL OR email_key NOT IN (SELECT key FROM crowded WHERE key IS NOT NULL))
    AND (phone_key IS NULL OR phone_key NOT IN (SELECT key FROM crowded WHERE key IS NOT NULL))
),
near AS (
    SELECT position, id, updated_ms, {{is_alike}} AS is_alike
    FROM asked JOIN found ON asked.email_key = found.email_key
    UNION SELECT position, id, updated_ms, {{is_alike}}
    FROM asked JOIN found ON asked.phone_key = found.phone_key
    WHERE ends_with(asked.digits, found.digits) OR ends_with(found.digits, asked.digits)
)
SELECT position, any_value(id), any_value(updated_ms) FROM near
GROUP BY position HAVING count(*) = 1 AND bool_and(is_alike)
"""  # noqa: S608 - all names are ours
_SAME_EMAIL = "(asked.email IS NULL OR asked.email_key = found.email_key)"
# a copy may show it without its country code
_SAME_PHONE = (
    "(asked.phone IS NULL OR asked.phone = found.phone "
    f"OR (length(plain_digits) >= {_KEY_DIGITS} AND ends_with(asked.e164, plain_digits) "
    "AND length(found.phone) = strlen(found.phone)))"
)


class PulledProspects(Pulled):
    """The table `prospects` of the last pull. columns: those whose values can be compared."""

    def __init__(self, tables: _Tables, columns: Sequence[str], *, complete_ms: int | None) -> None:
        self._tables, self.complete_ms = tables, complete_ms
        self.has_results = False
        read_as = (READ_AS.get(name, name) for name in PROSPECT_FIELDS)
        self._fields = {name: _snake(name) for name in read_as if _snake(name) in columns}
        self._keys = [key for key, column in _COLUMN_OF.items() if column in columns]
        self.contacts = [name for name in CONTACTS if name in columns]
        updated_at = tables.ms_of("updated_at") if "updated_at" in columns else "NULL"
        self._times = ["id", updated_at, tables.ms_of("_hc_deleted_at")]

    def by_id(
        self, ids: Collection[str], *, with_fields: bool = False
    ) -> dict[str, PulledProspect]:
        fields = self._fields if with_fields else {}
        found = self._select([*self._times, *fields.values()], {_ID: ids})
        return {each.id: each for each in _people(fields, found)}

    def count(self) -> int | None:
        sql = f"SELECT count(*) FROM {self._tables.name('prospects')} WHERE true {_LIVE}"  # noqa: S608
        return int(self._tables.query(sql)[0][0])

    def near(self, emails: Collection[str], phones: Collection[str]) -> Near:
        ends, fields = _by_end(phones), self._fields
        keys = [key if key in self._keys else "NULL" for key in (_EMAIL, _PHONE_END)]
        columns = [*keys, *self._times, *fields.values()]
        found = self._select(columns, {_EMAIL: emails, _PHONE_END: ends}, _LIVE)
        people = _people(fields, (row[2:] for row in found))
        by_email, by_phone = list[tuple[str, str]](), list[tuple[str, str]]()
        for (email, end, *_), each in zip(found, people, strict=True):
            by_email.append((email, each.id))
            by_phone += [
                (phone, each.id)
                for phone in ends.get(end, ())
                if same_phone(phone, each.fields["phone"])
            ]
        return Near(_ids_by(by_email), _ids_by(by_phone), {each.id: each for each in people})

    def pushed_before(self, ids: Collection[str]) -> frozenset[str]:
        wanted, found = list(ids), set[str]()
        for start in range(0, len(wanted) if self.has_results else 0, _IN_ONE_QUERY):
            some = wanted[start : start + _IN_ONE_QUERY]
            placeholders = ", ".join(["%s"] * len(some))
            rows = self._tables.query(
                f"SELECT DISTINCT prospect_id FROM {self._tables.name('_hc_push_results')} "  # noqa: S608
                f"WHERE status IN ('created', 'updated') AND prospect_id IN ({placeholders})",
                some,
            )
            found |= {str(id_) for (id_,) in rows}
        return frozenset(found)

    def _select(self, columns: Sequence[str], wanted: _Wanted, more: str = "") -> _Rows:
        """Rows that have one of the wanted values under one of the keys. All names are ours."""
        asked = {key: wanted[key] for key in wanted if wanted[key] and key in self._keys}
        if not asked:
            return []
        self._tables.find_places(self._keys)
        return self._tables.rows_with(columns, asked, more)


class CopiedProspects(PulledProspects):
    """The table `prospects` of the published copy. executor: queries it while more rows are
    read: DuckDB needs no Python meanwhile."""

    def __init__(
        self,
        tables: _PublishedCopy,
        columns: Sequence[str],
        *,
        complete_ms: int | None,
        executor: Executor,
    ) -> None:
        super().__init__(tables, columns, complete_ms=complete_ms)
        self._copy, self._executor = tables, executor
        self._contact_columns = [_COLUMN_OF[key] for key in self._keys if key != _ID]
        sql = (
            "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND "
            "table_name = 'prospects' AND data_type IN ('VARCHAR', 'JSON')"
        )
        texts = {name for (name,) in tables.query(sql, [tables.dataset])}
        columns_of = {name: self._fields.get(READ_AS.get(name, name)) for name in PROSPECT_FIELDS}
        self._compared = {
            name: column for name, column in columns_of.items() if column and column in texts
        }
        self._understood = self._compared.keys() | MANNERS
        self._alike = ""

    def alike(self, rows: Sequence[Mapping[str, Any]]) -> dict[int, PulledProspect]:
        if not self._contact_columns:
            return {}
        asked = [position for position, says in enumerate(rows) if self._is_understood(says)]
        compared = [rows[position] for position in asked]
        wanted: dict[str, list[Any]] = {
            name: [says.get(name) for says in compared] for name in self._compared
        }
        if "labels" in wanted:
            wanted["labels"] = [
                None if labels is None else orjson.dumps(labels).decode()
                for labels in wanted["labels"]
            ]
        emails, phones = (wanted.get(name, [None] * len(compared)) for name in CONTACTS)
        digits = [phone and re.sub(r"\D", "", phone) for phone in phones]
        wanted["email_key"] = [email and email.casefold() for email in emails]
        wanted["phone_key"] = [each and each[-_KEY_DIGITS:] for each in digits]
        wanted["digits"], wanted["position"] = digits, asked
        wanted["e164"] = [
            each if phone and phone[0] == "+" else None
            for phone, each in zip(phones, digits, strict=True)
        ]
        self._copy.find_places(self._keys)
        self._copy.register("wanted", wanted)
        found = self._copy.query(self._alike or self._make_alike())
        return {
            position: PulledProspect(id_, updated_ms, None) for position, id_, updated_ms in found
        }

    def ask_alike(
        self, rows: Sequence[Mapping[str, Any]]
    ) -> Callable[[], Mapping[int, PulledProspect]]:
        return self._executor.submit(self.alike, rows).result

    def _is_understood(self, says: Mapping[str, Any]) -> bool:
        """Whether a row is text through and through, under columns of text."""
        email, phone = says.get("email"), says.get("phone")
        return (
            (email is not None or phone is not None)
            and (email is None or email.isascii())
            and (phone is None or phone.isascii())
            and says.keys() <= self._understood
            and _TEXTS.issuperset(map(type, says.values()))
        )

    def _make_alike(self) -> str:
        """The query, whose columns stay the same."""
        same = {
            name: f'(asked."{name}" IS NULL OR asked."{name}" = found.{column}::VARCHAR)'
            for name, column in self._compared.items()
        }
        same |= {"email": _SAME_EMAIL} if "email" in same else {}
        same |= {"phone": _SAME_PHONE} if "phone" in same else {}
        compared = dict.fromkeys([*self._compared.values(), "email", "phone"])
        columns = [
            "id",
            f"{self._times[1]} AS updated_ms",
            *(
                name if name in self._compared.values() else f"NULL::VARCHAR AS {name}"
                for name in compared
            ),
        ]
        hashes = {
            column: f"SELECT hash({column}_key) FROM wanted WHERE {column}_key IS NOT NULL"  # noqa: S608
            for column in self._contact_columns
        }
        self._alike = _ALIKE.format(
            columns=", ".join(columns),
            among=self._copy.among(hashes),
            is_alike=" AND ".join(same.values()),
        )
        return self._alike


def _people(fields: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> list[PulledProspect]:
    """rows: id, updated and deleted at, and `fields`."""
    people = []
    for id_, updated, deleted, *values in rows:
        shown = dict(zip(fields, values, strict=True))
        if shown.get("labels") is not None:
            shown["labels"] = _labels(shown["labels"])
            if shown["labels"] is None:
                del shown["labels"]  # which there are isn't known
        people.append(PulledProspect(str(id_), as_ms(updated), as_ms(deleted), shown))
    return people


def _labels(stored: Any) -> list[str] | None:
    """The labels of a cell of JSON, which some databases return parsed. They are a list, or text,
    as the API gave them."""
    return _labels_of_text(stored) if isinstance(stored, str) else labels_read(stored)


@lru_cache(maxsize=10_000)  # few prospects have labels that no one else has
def _labels_of_text(text: str) -> list[str] | None:
    labels: Any = text
    with suppress(orjson.JSONDecodeError):
        labels = orjson.loads(text)
    return [] if labels is None else labels_read(labels)


def _by_end(phones: Iterable[str]) -> dict[str, list[str]]:
    ends: dict[str, list[str]] = {}
    for phone in phones:
        end = phone[-_KEY_DIGITS:]
        if not end.isdecimal():
            end = re.sub(r"\D", "", phone)[-_KEY_DIGITS:]
        ends.setdefault(end, []).append(phone)
    return ends


def _ids_by(pairs: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for key, id_ in pairs:
        before = found.get(key)
        found[key] = frozenset((id_,)) if before is None else before | {id_}
    return found


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: f"_{found[1]}", name).lower()
