"""Forget a person: out of every place where this installation holds them, and kept out.

First hashes of them are on disk, so that no run brings them back; then they are removed, their rows
last, by which a run that was killed finds them again; then files are rewritten and published. So
whatever a kill cuts short, the next such command does to its end.
"""

from __future__ import annotations

import glob
import secrets
import shutil
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import sqlalchemy as sa

from connector.budget.database import Database, half_path
from connector.budget.ledger_schema import OUTBOX_SUFFIX
from connector.errors import (
    BudgetError,
    ConnectorError,
    DestinationError,
    OutboxLost,
    Unexpected,
    UsageError,
    status_of,
)
from connector.logs import error_facts, get_logger, redact
from connector.settings import Settings
from connector.upsert.outbox.forgotten import (
    PeopleToForget,
    contacts_leading_to,
    ids_in,
    people_behind,
    receipts_of,
    remove_people,
)
from connector.upsert.outbox.outbox import outbox_salt
from connector.upsert.outbox.pairing import Scopes
from connector.webhooks.inbox import SUFFIX as INBOX_SUFFIX
from connector.webhooks.inbox import account_of, find_inbox
from pipelines.destination.destination import Destination
from pipelines.destination.identity import (
    destination_label,
    destination_type,
    duckdb_file,
    is_duckdb,
    pull_lock_name,
    work_paths,
)
from pipelines.destination.postgres import AnswerTimeouts, bounded_waits
from pipelines.destination.warehouse import CopyWarehouse, DuckWarehouse, ServerWarehouse
from pipelines.destination.working_file import (
    WorkRecord,
    open_working_file,
    quoted_text,
    rewrite_file,
)
from pipelines.pull.person_tables import PersonTables, aliases_of
from pipelines.running.progress import RunReport
from pipelines.running.session import (
    Session,
    contact_hashes,
    forget_lock_name,
    forgotten_list,
    key_number,
    lock_soon,
    open_session,
    outbox_of,
    push_lock_name,
    scope_of,
)

_SCRATCH = ("*.tmp", "*.made", "own_marts.*")  # in the working folder
_log = get_logger("forget")

_NEVER_REACHED = (
    "HiringCenter itself: delete the person there too",
    "backups of this machine, of the state directory and of the destination",
    "notes, tasks and meetings of other people that name them",
    "your own files: inputs, plans (.hcplan), pages, rejects, results and logs",
)
_OTHER_SPELLINGS = (
    "people whose email HiringCenter spells otherwise, if only in upper or lower case: here it "
    "landed as a hash; name them by id"
)
_HELD_OPEN = "copies that other processes hold open: they keep the old one until they close it"
_DEAD_TUPLES = "rows that PostgreSQL has deleted and not overwritten yet: VACUUM schema {schema}"
_KEPT_BY_SERVER = (
    "what {label} keeps of deleted rows (staging tables, snapshots, time travel), and their ids in "
    "texts about others"
)
_LOG_IN_USE = (
    "the log of {what}, which another process is reading: run the command again once that has ended"
)
_SCOPES_OF_LOST = (
    "SELECT scope FROM outbox_writes UNION SELECT scope FROM outbox_receipts "
    "UNION SELECT scope FROM push_results UNION SELECT scope FROM outbox_before_images"
)


@dataclass(frozen=True)
class ForgetRequest:
    """who: an id, or an email. remember_again: lift what an earlier forget has blocked."""

    who: str
    dry_run: bool = False
    remember_again: bool = False

    @property
    def is_email(self) -> bool:
        return "@" in self.who


@dataclass
class ForgetReport(RunReport):
    """people: ids. removed: place → how many rows, entries or files. left: what couldn't be
    removed this time, for people; not_reached: what this command never reaches. lifted: how many
    are remembered again."""

    people: tuple[str, ...] = ()
    removed: Counter[str] = field(default_factory=Counter)
    left: list[str] = field(default_factory=list)
    not_reached: list[str] = field(default_factory=list)
    lifted: int = 0

    @property
    def needs_a_look(self) -> bool:
        """Something is left that should be gone."""
        return bool(self.left)


def forget(settings: Settings, request: ForgetRequest) -> ForgetReport:
    """Remove a person and what belongs to them, and keep them out; or count what that would be.

    Raises:
        UsageError: no person is named.
        AlreadyRunning: a pull or a push didn't end within a minute.
        BudgetError: the ledger can't be used.
    """
    if not request.who.strip():
        raise UsageError("Name the person: hiringcenter forget ID, or hiringcenter forget EMAIL.")
    with open_session(settings, kind="forget") as session, ExitStack() as stack:
        outbox = _opened_outbox(session, stack)
        scope = key_number(settings, session.ledger)
        if outbox is not None:
            scope = scope_of(session, outbox)
        forgetting = _Forgetting(session, request, outbox, scope)
        if request.remember_again:
            return forgetting.lift()
        # in this order, as pushes take them, which never wait for a pull
        wanted = [(session.ledger, pull_lock_name(settings))]
        if outbox is not None:
            wanted.insert(0, (outbox, push_lock_name(scope)))
        for store, name in wanted:
            for each in (forget_lock_name(name), name):
                stack.enter_context(lock_soon(session, store, each, around=None))
        return forgetting.run()


def _opened_outbox(session: Session, stack: ExitStack) -> Database | None:
    try:
        opened = outbox_of(session)
    except OutboxLost as error:
        _log.warning("forget.no_outbox", why=str(error))
        return None
    stack.callback(opened.close)
    return opened.database


class _Forgetting:
    """One run of the command. outbox: None where it is lost. scope: the account's, in it."""

    def __init__(
        self, session: Session, request: ForgetRequest, outbox: Database | None, scope: int
    ) -> None:
        self._session, self._settings, self._request = session, session.settings, request
        self._outbox, self._scope, self._who = outbox, scope, request.who.strip()
        self._began_s = session.clock.monotonic_s()
        self._list = forgotten_list(session, outbox)
        self._scopes, salt = frozenset({scope}), None
        if outbox is not None:
            salt = outbox_salt(outbox)
            number = key_number(self._settings, session.ledger)
            self._scopes = Scopes(outbox).of_account(number)
        # a list that is there has its key already, whatever a new outbox has
        self._key = self._list.key() or salt or secrets.token_bytes(32)
        self._shares_aliases = salt == self._key
        self._hashes = contact_hashes(self._settings, self._key)
        self._report = ForgetReport()

    @property
    def _named(self) -> set[int]:
        """The aliases of what the user has typed."""
        if self._request.is_email:
            return self._hashes.of_contact("email", self._who)
        return {self._hashes.of_id(self._who)}

    def lift(self) -> ForgetReport:
        """No one with that id or email is kept out any more."""
        report, is_dry = self._report, self._request.dry_run
        if is_dry:
            report.lifted = int(not self._list.aliases().isdisjoint(self._named))
        else:
            report.lifted = self._list.lift(self._named)
        report.summary = {"status": "ok", "dry_run": is_dry, "remembered_again": report.lifted}
        return report

    def run(self) -> ForgetReport:
        """Whatever happens, the report says what was removed so far."""
        session, report, is_dry = self._session, self._report, self._request.dry_run
        if not is_dry:
            name = forget_lock_name(pull_lock_name(self._settings))
            label = destination_label(self._settings)
            session.runs.start(session.run_id, "forget", label, lock_name=name)
        try:
            self._work()
        except ConnectorError as error:
            report.error = error
        except Exception as error:  # noqa: BLE001 - what was removed is reported whatever fails
            _log.debug("forget.unexpected", exc_info=error)
            report.error = Unexpected(error)
        report.summary = self._summary()
        if not is_dry:
            anonymous = {name: each for name, each in report.summary.items() if name != "people"}
            message = redact(str(report.error)) if report.error else None
            with suppress(BudgetError):
                session.runs.finish(session.run_id, anonymous["status"], anonymous, message)
        return report

    def _summary(self) -> dict[str, Any]:
        report, session = self._report, self._session
        summary: dict[str, Any] = {
            "run_id": None if self._request.dry_run else session.run_id,
            "status": status_of(report.error),
            "dry_run": self._request.dry_run,
            "people": list(report.people),
            "removed": dict(sorted((+report.removed).items())),
            "left": report.left,
            "not_reached": report.not_reached,
            "seconds": round(session.clock.monotonic_s() - self._began_s, 3),
        }
        return summary | ({"error": error_facts(report.error)} if report.error else {})

    def _work(self) -> None:
        is_dry, report = self._request.dry_run, self._report
        report.not_reached += _NEVER_REACHED
        if self._request.is_email and "email" in self._hashes.hidden:
            report.not_reached.append(_OTHER_SPELLINGS)
        with self._opened_tables() as tables:
            if tables is not None:
                tables.refuse_other_account(self._session)
            unfinished = self._list.unfinished()
            people, by_person = self._find(tables, unfinished)
            report.people = people.ids
            _log.info("forget.found", people=len(people.ids), dry_run=is_dry)
            if not is_dry:
                now_ms = self._session.budget.steady_clock.now_ms()
                self._list.add(self._scope, by_person, key=self._key, at_ms=now_ms)
            self._remove_from_ledger(people)
            self._remove_files(people)
            if tables is not None:
                if not is_dry:
                    self._rename_seen([*people.ids, *tables.belonging_to(people.ids)])
                tables.remove(people)
        if is_dry:
            self._remove_from_kept(people)
            return
        if report.removed.total() or unfinished:
            self._rewrite()
            self._remove_from_kept(people)
        self._list.finish()

    def _rewrite(self) -> None:
        """Files without what was deleted in them: the ledger's, the working file, the copy."""
        for what, store in (("the outbox", self._outbox), ("the ledger", self._session.ledger)):
            if store is not None and not store.scrub():
                self._report.left.append(_LOG_IN_USE.format(what=what))
        if not self._session.ledger.is_sqlite:
            schema = "hiringcenter_ledger (the ledger)"
            self._report.not_reached.append(_DEAD_TUPLES.format(schema=schema))
        paths = work_paths(self._settings)
        if not paths.working_file.exists():
            return
        scratch = [each for kind in _SCRATCH for each in paths.work_dir.glob(kind)]
        for each in scratch:
            _delete(each)  # DuckDB's, and ours, of a run that was killed
        rewrite_file(paths.working_file)
        if is_duckdb(self._settings):
            with Destination(self._settings, stop=self._session.stop) as destination:
                destination.publish()
            self._report.not_reached.append(_HELD_OPEN)

    # --- who it is --------------------------------------------------------------------------------

    def _find(
        self, tables: PersonTables | None, unfinished: Collection[int]
    ) -> tuple[PeopleToForget, Mapping[int, Collection[int]]]:
        """All people with the id, or with exactly that email; and those whom an earlier run hasn't
        removed to the end. Also, under the alias that stands for each, all aliases that are theirs
        alone."""
        hashes, is_email = self._hashes, self._request.is_email
        ids = [self._who]
        if is_email:
            ids = [*(tables.having(self._who) if tables else ()), *self._sent_to(tables)]
        asked = {hashes.of_id(id_) for id_ in ids}
        if unfinished and not self._request.dry_run:
            known = [*(tables.every_id() if tables else ()), *self._written_to()]
            ids += [id_ for id_ in known if hashes.of_id(id_) in unfinished]
        everyone = ids_in(ids)
        by_person: dict[int, set[int]] = {}
        for id_ in everyone:
            values = tables.contacts(id_) if tables else []
            own = {alias for kind, value in values for alias in aliases_of(kind, value, hashes)}
            shared = tables.shared(values, everyone) if tables else set()
            by_person[hashes.of_id(id_)] = (own | self._known_to_lead(id_)) - shared
        named = self._named
        if not asked:
            by_person[min(named)] = set()
        for person, listed in by_person.items():
            if person in asked or person in named:
                listed |= named
        contacts = frozenset[int]().union(*by_person.values())
        return PeopleToForget(tuple(everyone), contacts), by_person

    def _sent_to(self, tables: PersonTables | None) -> list[str]:
        """To whom pushes have found that email to lead, and who has no other one by now."""
        if self._outbox is None or not self._shares_aliases:
            return []
        with self._outbox.read() as connection:
            found = people_behind(connection, self._scopes, self._named)
        return [each for each in sorted(found) if tables is None or not tables.has(each)]

    def _written_to(self) -> list[str]:
        if self._outbox is None:
            return []
        with self._outbox.read() as connection:
            return receipts_of(connection, self._scopes)

    def _known_to_lead(self, prospect_id: str) -> set[int]:
        if self._outbox is None or not self._shares_aliases:
            return set()
        with self._outbox.read() as connection:
            return contacts_leading_to(connection, self._scopes, [prospect_id])

    # --- ledger, outbox, inbox --------------------------------------------------------------------

    def _remove_from_ledger(self, people: PeopleToForget) -> None:
        report, is_dry = self._report, self._request.dry_run
        if self._outbox is not None:
            with self._outbox.write(keeps=not is_dry) as connection:
                report.removed.update(remove_people(connection, self._scopes, people))
        else:
            report.left.append("the outbox of this ledger, which is lost: see the warning above")
        runs = self._session.runs
        mentions = runs.edit_texts(people.ids, people.without_ids, dry_run=is_dry)
        report.removed["mentions"] += mentions
        try:
            inbox = find_inbox(self._settings, self._session.ledger)
        except BudgetError as error:
            report.left.append(f"the inbox of webhooks: {error}")
            return
        if inbox is not None:
            with closing(inbox):
                account = account_of(self._settings)
                report.removed["inbox"] += inbox.forget(account, people.ids, dry_run=is_dry)
                if not is_dry and not inbox.scrub():
                    report.left.append(_LOG_IN_USE.format(what="the inbox"))

    # --- files ------------------------------------------------------------------------------------

    def _remove_files(self, people: PeopleToForget) -> None:
        """Load packages, and files that were put aside since they couldn't be used."""
        work_dir = work_paths(self._settings).work_dir
        packages = [*work_dir.glob("pipelines/*/*")]
        aside = [*work_dir.glob("*.damaged-*"), *self._next_to_ledger(INBOX_SUFFIX, "damaged")]
        for place, found in (("packages", packages), ("put_aside", aside)):
            self._report.removed[place] += len(found)
            if not self._request.dry_run:
                for each in found:
                    _delete(each)
        for lost in self._next_to_ledger(OUTBOX_SUFFIX, "lost"):
            if lost.suffix == ".db":
                self._remove_from_lost(lost, people)
        others = [each.parent for each in work_dir.parent.glob("*/_hc_working.duckdb")]
        if names := sorted(each.name for each in others if each != work_dir):
            self._report.not_reached.append(
                f"other destinations of this state directory ({', '.join(names[:5])}): run the "
                "command with their settings too, or delete what is no longer used"
            )

    def _next_to_ledger(self, suffix: str, word: str) -> list[Path]:
        """Files put aside next to a SQLite ledger."""
        path = half_path(self._session.ledger.url, suffix)
        if path is None:
            return []
        return [*path.parent.glob(f"{glob.escape(path.stem)}.*{word}-*")]

    def _remove_from_lost(self, lost: Path, people: PeopleToForget) -> None:
        """An outbox that was replaced may be put back; one that can't be read is deleted."""
        is_dry = self._request.dry_run
        try:
            with closing(Database(f"sqlite:///{lost}", durable=True)) as database:
                with database.read() as connection:
                    scopes = set(connection.exec_driver_sql(_SCOPES_OF_LOST).scalars())
                with database.write(keeps=not is_dry) as connection:
                    removed = remove_people(connection, scopes, people)
                if not is_dry:
                    database.scrub()
            self._report.removed["put_aside"] += removed.total()
        except (BudgetError, sa.exc.DatabaseError, sqlite3.Error):
            self._report.removed["put_aside"] += 1
            if not is_dry:
                for ending in ("", "-wal", "-shm"):
                    _delete(lost.with_name(lost.name + ending))
        finally:
            _delete(lost.with_name(f"{lost.name}.lock"))

    def _remove_from_kept(self, people: PeopleToForget) -> None:
        """Published copies into which another program wrote, which are kept with what it wrote.
        Publishing may have kept one more, and a run been killed then: so in each, all
        people who are on the list are looked for."""
        if not is_duckdb(self._settings):
            return
        path, listed = duckdb_file(self._settings), self._list.aliases()
        for kept in path.parent.glob(f"{glob.escape(path.stem)}.kept-*{glob.escape(path.suffix)}"):
            mode, removed = kept.stat().st_mode & 0o777, Counter[str]()
            try:
                kept.chmod(mode | 0o200)
                with closing(_attached(kept)) as connection:
                    warehouse = CopyWarehouse(connection, self._settings.dataset)
                    tables = self._tables_of(warehouse, removed)
                    known = [id_ for id_ in tables.every_id() if self._hashes.of_id(id_) in listed]
                    ids = tuple(ids_in([*people.ids, *known]))
                    tables.remove(PeopleToForget(ids, people.contacts))
                    tables.drop_marts()
                if not self._request.dry_run:
                    rewrite_file(kept)  # whatever: another name of the same file may have lost rows
                self._report.removed["put_aside"] += removed.total()
            except (OSError, duckdb.Error, DestinationError):
                self._report.left.append(
                    f"{kept}: another program has it open, or it can't be read: delete it by hand"
                )
            finally:
                with suppress(OSError):
                    kept.chmod(mode)

    # --- tables -----------------------------------------------------------------------------------

    def _tables_of(
        self,
        warehouse: DuckWarehouse | ServerWarehouse,
        removed: Counter[str],
        *,
        is_plain_sql: bool = False,
    ) -> PersonTables:
        return PersonTables(
            warehouse, self._settings, self._hashes, removed,
            is_dry=self._request.dry_run, is_plain_sql=is_plain_sql,
        )  # fmt: skip

    @contextmanager
    def _opened_tables(self) -> Iterator[PersonTables | None]:
        """The tables of the destination; None where nothing has ever landed."""
        settings, report = self._settings, self._report
        if is_duckdb(settings):
            with self._opened_working_file() as connection:
                tables = None
                if connection is not None:
                    warehouse = DuckWarehouse(connection, settings.dataset)
                    tables = self._tables_of(warehouse, report.removed)
                yield tables
            return
        from pipelines.destination.destination_kinds import form_of, server_pipeline

        is_postgres, label = destination_type(settings) == "postgres", destination_label(settings)
        with ExitStack() as stack:
            if is_postgres:
                stack.enter_context(bounded_waits(AnswerTimeouts()))
            pipeline = stack.enter_context(server_pipeline(settings))
            if form_of(settings, pipeline.destination).has_update:
                server = ServerWarehouse(lambda: pipeline)
                yield self._tables_of(server, report.removed, is_plain_sql=not is_postgres)
            else:
                report.left.append(f"rows at {label}: SQL can't delete there; use its own tools")
                yield None
        if is_postgres:
            schema = f"{settings.dataset} (the destination)"
            report.not_reached.append(_DEAD_TUPLES.format(schema=schema))
        else:
            report.not_reached.append(_KEPT_BY_SERVER.format(label=label))

    @contextmanager
    def _opened_working_file(self) -> Iterator[duckdb.DuckDBPyConnection | None]:
        paths = work_paths(self._settings)
        snapshot = duckdb_file(self._settings) if is_duckdb(self._settings) else None
        if not paths.working_file.exists() and not (snapshot and snapshot.exists()):
            yield None
            return
        record = WorkRecord.read(paths.work_dir)
        with closing(open_working_file(paths.working_file, record, snapshot=snapshot)) as opened:
            if snapshot is not None and not self._request.dry_run:
                record.save(is_behind=True)  # whatever comes, the published copy is made again
            yield opened

    def _rename_seen(self, ids: Sequence[str]) -> None:
        """With a server, the working file holds ids that scans have seen."""
        if is_duckdb(self._settings):
            return
        with self._opened_working_file() as connection:
            if connection is not None:
                DuckWarehouse(connection, self._settings.dataset).rename_seen(ids)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _attached(file: Path) -> duckdb.DuckDBPyConnection:
    """A connection to a copy, under a name that isn't a schema's."""
    connection = duckdb.connect()
    connection.execute(f"ATTACH {quoted_text(file)} AS _hc_kept")
    connection.execute("USE _hc_kept")
    return connection
