"""People who were forgotten: who they are, as keyed hashes, and what an outbox knew of them.

`hiringcenter forget` removes a person everywhere; the next pull would land them again, and the next
push of an old file send them. So hashes of their id, emails and phones stay, keyed as all aliases
of the outbox are. The list is in the ledger, together with that key, since a pull does without the
outbox; the outbox has a copy, for a ledger that is lost.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from connector.budget.database import Database, create_missing, table_names
from connector.upsert.outbox.matching import Hasher, normal_value
from connector.upsert.outbox.outbox import CHANGED_ANOTHER, FORGOTTEN, WriteState
from connector.upsert.outbox.outbox_schema import (
    activity_rows,
    aliases,
    attached,
    before_images,
    disputed,
    entries,
    entry_contacts,
    insert_new,
    insert_or_replace,
    receipts,
    refusals,
    results,
    salts,
    settled_names,
    sources,
    writes,
)

if TYPE_CHECKING:  # pulls do without what checks rows, unless a person is on the list
    from connector.upsert.rows.cells import InputRow
    from connector.upsert.rows.row_checks import Check, Reject, ValidRow

WAS_FORGOTTEN = (
    "this person was forgotten here (`hiringcenter forget`), so nothing about them is sent; "
    "`hiringcenter forget ID|EMAIL --remember-again` lifts that"
)
_LEAST_DIGITS, _LEAST_VARIETY = 7, 3  # of a phone: 000-000-0000 may be anyone's
_LONG_ID = 8  # a shorter one may be any number of a text
_CHANGES = ("created", "updated", CHANGED_ANOTHER)

_metadata = sa.MetaData()
# person: the alias of their id, or of the contact that is all that was known. is_done: everything
# about them was removed
_forgotten = sa.Table(
    "forgotten",
    _metadata,
    sa.Column("scope", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("person", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("alias", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("is_done", sa.Boolean, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
)
_keys = sa.Table(
    "forgotten_keys",
    _metadata,
    sa.Column("name", sa.String(16), primary_key=True),
    sa.Column("value", sa.LargeBinary(32), nullable=False),
)
_MIGRATIONS = (partial(create_missing, _metadata),)
_COMPONENT, _KEY = "forgotten", "outbox"


@dataclass(frozen=True)
class ContactHashes:
    """Makes the aliases of ids and contacts. region: of phones without a country code. hidden: by
    field, how the settings hash what lands of it."""

    hasher: Hasher
    region: str = "US"
    hidden: Mapping[str, Callable[[Any], str]] = field(default_factory=dict)

    def of_id(self, prospect_id: str) -> int:
        """Ids are compared exactly, and aliases by their letters alone, whatever their case."""
        exact = (
            ""
            if prospect_id == prospect_id.casefold()
            else prospect_id.encode("utf-8", "surrogatepass").hex()
        )
        return self.hasher.alias("prospect", prospect_id + exact)

    def of_contact(self, kind: str, value: Any) -> set[int]:
        """Of every spelling that is known to be the same one. kind: `email` or `phone`."""
        text = identity_text(value)
        if text is None or not text.strip():
            return set()
        forms = _forms_of_email(text) if kind == "email" else _forms_of_phone(text, self.region)
        if (hashed := self.hidden.get(kind)) is not None:
            forms |= {f"hashed:{hashed(each)}" for each in (value, text, text.strip())}
        alias: Any = self.hasher.alias
        return {alias(kind, form) for form in forms}

    def of_hidden(self, kind: str, stored: str) -> int:
        """Of a contact that landed as a hash. stored: that hash."""
        alias: Any = self.hasher.alias
        return int(alias(kind, f"hashed:{stored}"))


def identity_text(value: Any) -> str | None:
    """An id or a contact as text: APIs and spreadsheets send some as numbers, 4711.0 for 4711 too.
    None: it can't be one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_number or isinstance(value, str) else None


def texts_in(record: Any) -> Iterator[str]:
    """What of a malformed record can be an id or a contact, at any depth."""
    waiting = [record]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif (text := identity_text(value)) is not None:
            yield text


def contact_kind(text: str) -> str:
    """Which kind of contact `text` can be."""
    return "email" if "@" in text else "phone"


def _forms_of_email(value: str) -> set[str]:
    from connector.upsert.rows.contact import email_identity, plain_email

    forms = {str(normal_value("email", value))}
    with suppress(ValueError):
        forms.add(email_identity(plain_email(value.strip())))
    return forms


def _forms_of_phone(value: str, region: str) -> set[str]:
    from connector.upsert.rows.contact import e164, plain_contact

    forms, digits = set[str](), str(normal_value("phone", value))
    if len(digits) >= _LEAST_DIGITS and len(set(digits)) >= _LEAST_VARIETY:
        forms.add(digits)
    plain = plain_contact(value).strip()
    for each in (plain, f"+{digits}"):  # numbers have lost their +
        with suppress(ValueError):
            forms.add(e164(each, region)[0])
            break
    return forms


class Forgotten:
    """Whether a person was forgotten. With no one on the list it is false, and costs nothing.

    listed: aliases of ids and contacts.
    """

    def __init__(
        self, hashes: ContactHashes | None = None, listed: Collection[int] = frozenset()
    ) -> None:
        self._hashes, self._listed = hashes, frozenset(listed)

    def __bool__(self) -> bool:
        return bool(self._listed)

    def has_alias(self, *names: int | None) -> bool:
        """Whether one of these aliases is on the list."""
        return any(alias in self._listed for alias in names)

    def has_id(self, prospect_id: Any) -> bool:
        """Whether the prospect with this id was forgotten."""
        if not self._listed or self._hashes is None:
            return False
        text = identity_text(prospect_id)
        return text is not None and self._hashes.of_id(text) in self._listed

    def has_contact(self, email: Any, phone: Any) -> bool:
        """Whether a person who was forgotten had this email or phone."""
        if not self._listed or self._hashes is None:
            return False
        of = self._hashes.of_contact
        return not self._listed.isdisjoint(of("email", email) | of("phone", phone))

    def is_named_in(self, record: Any) -> bool:
        """Whether a malformed record holds an id or a contact of a person who was forgotten."""
        if not self._listed or self._hashes is None:
            return False
        of = self._hashes.of_contact
        return any(
            self.has_id(text) or not self._listed.isdisjoint(of(contact_kind(text), text))
            for text in texts_in(record)
        )


NONE_FORGOTTEN = Forgotten()


def refusing(check: Check, forgotten: Forgotten) -> Check:
    """`check`, which rejects rows about people who were forgotten as well."""
    from connector.upsert.rows.row_checks import Reject

    if not forgotten:
        return check

    def checked(row: InputRow) -> ValidRow | Reject:
        found = check(row)
        if isinstance(found, Reject):
            return found
        if forgotten.has_id(found.prospect_id) or forgotten.has_contact(found.email, found.phone):
            return Reject(row.row_number, row.values, None, WAS_FORGOTTEN)
        return found

    return checked


class ForgottenList:
    """The list of one account. scopes: every scope of the account; None: of any, where which ones
    it has isn't known. outbox: keeps the copy; None where it is lost."""

    def __init__(
        self, ledger: Database, scopes: Collection[int] | None, outbox: Database | None = None
    ) -> None:
        self._ledger, self._scopes = ledger, scopes
        self._stores = [ledger, *([outbox] if outbox is not None and ledger.is_sqlite else [])]

    def key(self) -> bytes | None:
        """What its hashes are keyed with; None while the list is empty."""
        with self._ledger.read() as connection:
            return _key(connection) if _has_list(connection) else None

    def aliases(self) -> frozenset[int]:
        """All that are listed."""
        return frozenset(alias for alias, _ in self._listed())

    def unfinished(self) -> frozenset[int]:
        """Those of people whose removal hasn't come to its end."""
        return frozenset(alias for alias, is_done in self._listed() if not is_done)

    def _listed(self) -> list[tuple[int, bool]]:
        query = sa.select(_forgotten.c.alias, _forgotten.c.is_done).where(self._own)
        with self._ledger.read() as connection:
            found = connection.execute(query) if _has_list(connection) else ()
            return [(row[0], row[1]) for row in found]

    @property
    def _own(self) -> sa.ColumnElement[bool]:
        return sa.true() if self._scopes is None else _forgotten.c.scope.in_(self._scopes)

    def add(
        self, scope: int, people: Mapping[int, Collection[int]], *, key: bytes, at_ms: int
    ) -> None:
        """From now on these people neither land nor are sent; on disk once this returns.

        people: for each, under one alias that stands for them, all of theirs. key: of the outbox's
        aliases.
        """
        rows = [
            {"scope": scope, "person": person, "alias": alias, "is_done": False, "at_ms": at_ms}
            for person, listed in people.items()
            for alias in sorted({person, *listed})
        ]
        for store in reversed(self._stores):  # the outbox first: its copy reaches the disk
            store.migrate(_COMPONENT, _MIGRATIONS)
            with store.write() as connection:
                insert_or_replace(connection, _keys, [{"name": _KEY, "value": key}])
                insert_or_replace(connection, _forgotten, rows)

    def finish(self) -> None:
        """All that was known of the people on the list is removed."""
        self._change(sa.update(_forgotten).where(self._own).values(is_done=True))

    def lift(self, found: Collection[int]) -> int:
        """Take people off the list who have one of these aliases; how many there were."""
        named = self._own & _forgotten.c.alias.in_(found)
        query = sa.select(_forgotten.c.person).where(named)
        with self._ledger.read() as connection:
            people = set(connection.scalars(query) if _has_list(connection) else ())
        self._change(sa.delete(_forgotten).where(self._own, _forgotten.c.person.in_(people)))
        return len(people)

    def _change(self, statement: sa.Update | sa.Delete) -> None:
        for store in reversed(self._stores):
            with store.write() as connection:
                if _has_list(connection):
                    connection.execute(statement)


def share_list(ledger: sa.Connection, outbox: sa.Connection) -> None:
    """Where a ledger or its outbox is a new one, it gets the list from the other, and a new outbox
    the key that the hashes are made with. Both are SQLite files."""
    for source, target in ((ledger, outbox), (outbox, ledger)):
        if not _has_list(source):
            continue
        create_missing(_metadata, target)
        for table in (_keys, _forgotten):
            rows = [dict(row._mapping) for row in source.execute(sa.select(table))]
            insert_new(target, table, rows)
    if _has_list(outbox) and (key := _key(outbox)) is not None:
        insert_new(outbox, salts, [{"name": _KEY, "value": key}])


def _has_list(connection: sa.Connection) -> bool:
    return _forgotten.name in table_names(connection)


def _key(connection: sa.Connection) -> bytes | None:
    found = connection.scalar(sa.select(_keys.c.value).where(_keys.c.name == _KEY))
    return None if found is None else bytes(found)


# --- what an outbox knows of people ---------------------------------------------------------------


@dataclass(frozen=True)
class PeopleToForget:
    """ids: of prospects. contacts: aliases that lead to no one else."""

    ids: tuple[str, ...]
    contacts: frozenset[int] = frozenset()

    def without_ids(self, text: str) -> str:
        """`text`, for people, with the ids taken out."""
        for id_ in self.ids:
            before = r"(?<![\w-])" if len(id_) >= _LONG_ID else r"(?<=prospect )"
            text = re.sub(before + re.escape(id_) + r"(?![\w-])", "(forgotten)", text)
        return text


def contacts_leading_to(
    connection: sa.Connection, scopes: Collection[int], ids: Collection[str]
) -> set[int]:
    """Aliases of contacts that pushes have found to lead to these people."""
    own = aliases.c
    query = sa.select(own.alias).where(own.scope.in_(scopes), own.prospect_id.in_(ids))
    return set(connection.scalars(query.where(own.kind.in_(("email", "phone")))))


def people_behind(
    connection: sa.Connection, scopes: Collection[int], contacts: Collection[int]
) -> set[str]:
    """Ids of the prospects to whom these contacts lead, as far as pushes have found out."""
    own = aliases.c
    query = sa.select(own.prospect_id).where(own.scope.in_(scopes), own.alias.in_(contacts))
    return set(connection.scalars(query))


def receipts_of(connection: sa.Connection, scopes: Collection[int]) -> list[str]:
    """Ids of all prospects of whom there is a receipt."""
    query = sa.select(receipts.c.prospect_id).where(receipts.c.scope.in_(scopes))
    return list(connection.scalars(query))


def remove_people(
    connection: sa.Connection, scopes: Collection[int], people: PeopleToForget
) -> Counter[str]:
    """Remove all that an outbox knows of these people; how many rows, by place.

    What was sent of them stays without saying of whom, so that an undo can say so.
    """
    counts: Counter[str] = Counter()
    ids, contacts = list(people.ids), list(people.contacts)

    def remove(place: str, table: sa.Table, *which: sa.ColumnElement[bool]) -> None:
        counts[place] += connection.execute(sa.delete(table).where(*which)).rowcount

    counts["outbox"] += _remove_writes(connection, scopes, people)
    for place, table in (
        ("results", results), ("before_images", before_images), ("receipts", aliases),
        ("receipts", receipts), ("receipts", settled_names), ("receipts", attached),
        ("receipts", activity_rows),
    ):  # fmt: skip
        remove(place, table, table.c.scope.in_(scopes), table.c.prospect_id.in_(ids))
    remove("receipts", aliases, aliases.c.scope.in_(scopes), aliases.c.alias.in_(contacts))
    own = disputed.c
    either = own.alias.in_(contacts) | own.expected_id.in_(ids) | own.answered_id.in_(ids)
    remove("receipts", disputed, own.scope.in_(scopes), either)
    named = [refusals.c.people.contains(f'"{id_}"', autoescape=True) for id_ in ids]
    named.append(refusals.c.alias.in_(contacts))
    remove("receipts", refusals, refusals.c.scope.in_(scopes), sa.or_(*named))
    _remove_entries(connection, scopes, people, remove)
    for table, name in ((results, "message"), (refusals, "reason"), (writes, "note")):
        counts["mentions"] += remove_mentions(connection, table, name, people)
    return +counts


def _remove_writes(
    connection: sa.Connection, scopes: Collection[int], people: PeopleToForget
) -> int:
    own, contacts = writes.c, list(people.contacts)
    theirs = own.prospect_id.in_(people.ids) | (
        own.prospect_id.is_(None) & (own.email_alias.in_(contacts) | own.phone_alias.in_(contacts))
    )
    which = own.scope.in_(scopes) & theirs
    planned = sa.delete(writes).where(which, own.state == WriteState.PLANNED.value)
    count = connection.execute(planned).rowcount
    is_open = own.state.in_((WriteState.SENDING.value, WriteState.UNCERTAIN.value))
    has_changed = is_open | own.outcome.in_(_CHANGES)
    emptied = dict.fromkeys((
        "email_alias", "phone_alias", "row_alias", "prospect_id", "body", "settles", "guard",
        "exported", "seen", "seen_ms", "row_values", "note", "idempotency_key",
    ))  # fmt: skip
    anonymous = sa.update(writes).where(which).values(
        **emptied, person=0, content=secrets.token_bytes(16), state=WriteState.CLOSED.value,
        outcome=sa.case((has_changed, FORGOTTEN), else_=own.outcome),
    )  # fmt: skip
    return int(count + connection.execute(anonymous).rowcount)


def _remove_entries(
    connection: sa.Connection,
    scopes: Collection[int],
    people: PeopleToForget,
    remove: Callable[..., None],
) -> None:
    """What sources have settled for rows about them, and what leads there."""
    own, contacts = entries.c, list(people.contacts)
    theirs = own.prospect_id.in_(people.ids) | (own.prospect_id.is_(None) & own.alias.in_(contacts))
    numbers = sa.select(sources.c.id).where(sources.c.scope.in_(scopes))
    which = own.source.in_(numbers) & theirs
    found = connection.execute(sa.select(own.alias, own.source).where(which)).fetchall()
    for alias, source in found:
        led = (entry_contacts.c.alias == alias) & (entry_contacts.c.source == source)
        connection.execute(sa.delete(entry_contacts).where(led))
    leading = entry_contacts.c
    connection.execute(
        sa.delete(entry_contacts).where(leading.source.in_(numbers), leading.contact.in_(contacts))
    )
    remove("receipts", entries, which)


def remove_mentions(
    connection: sa.Connection, table: sa.Table, column: str, people: PeopleToForget
) -> int:
    """Take the ids out of texts about others, as in "the same email as prospect ID"; how many."""
    if not people.ids:
        return 0
    keys, text = list(table.primary_key.columns), table.c[column]
    mentioned = sa.or_(*(text.contains(id_, autoescape=True) for id_ in people.ids))
    count = 0
    for *key, found in connection.execute(sa.select(*keys, text).where(mentioned)).fetchall():
        if (plain := people.without_ids(found)) != found:
            same = [each == value for each, value in zip(keys, key, strict=True)]
            connection.execute(sa.update(table).where(*same).values({column: plain}))
            count += 1
    return count


def ids_in(values: Iterable[Any]) -> Sequence[str]:
    """`values` as ids, each once, in order."""
    return tuple(dict.fromkeys(str(value) for value in values if value is not None))
