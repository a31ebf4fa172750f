"""Where rows land: everything that pulls and pushes do with their destination, of any type."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import duckdb

from connector.errors import ConnectorError, DestinationError, DestinationRefused
from connector.logs import get_logger
from connector.settings import Settings
from connector.source.fields import CONTRACT, DELETED_COLUMN, HASH_COLUMN, UNLISTED_COLUMN
from pipelines.destination.history_tables import HistoryTables
from pipelines.destination.identity import (
    destination_kind,
    destination_type,
    duckdb_file,
    installation_id,
    prepare_state_dir,
    work_paths,
)
from pipelines.destination.load_errors import chain, load_failed, translated
from pipelines.destination.loader import PIPELINE_NAME, Batch, Loader
from pipelines.destination.marts import Marts
from pipelines.destination.postgres import (
    AnswerTimeouts,
    again_after_s,
    blockers_of,
    bounded_waits,
    drop_keys,
    is_too_big_for_an_index,
    make_keys,
    wait_out_locks,
    write_comments,
)
from pipelines.destination.snapshot import Snapshot
from pipelines.destination.warehouse import (
    DuckWarehouse,
    SeenIds,
    ServerWarehouse,
    Statement,
)
from pipelines.destination.working_file import (
    MemoryLimit,
    WorkRecord,
    checkpoint_if_due,
    damage_suspected,
    open_working_file,
    return_freed_memory,
)

if TYPE_CHECKING:
    from pipelines.destination.load_packages import LoadPipeline

_log = get_logger("destination")
_KEPT_STATES = 20
_LIVE = f"{DELETED_COLUMN} IS NULL"
_LISTED = f"{DELETED_COLUMN} IS NULL AND {UNLISTED_COLUMN} IS NULL"
_TRIAL = "_hc_check"
_SKEW_S = 30.0  # between the clocks of machines, as `check` allows it
T = TypeVar("T")


class Destination:
    """The configured destination, opened for loading. Hold the pull lock while it is open.

    take_over: publish over the copy of another installation. stop: once set, waits for another
    session's lock end. timeouts: how long a server may take to answer.

    Raises:
        ConfigurationError: a destination that dlt doesn't know, or credentials it can't use.
        DestinationError: it can't be opened or written.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        take_over: bool = False,
        stop: threading.Event | None = None,
        timeouts: AnswerTimeouts = AnswerTimeouts(),  # noqa: B008 - it is frozen
    ) -> None:
        return_freed_memory()
        prepare_state_dir(settings)
        self._settings, self._stop = settings, stop
        self._type, self._paths = destination_type(settings), work_paths(settings)
        self._record = WorkRecord.read(self._paths.work_dir)
        self._marts = Marts(
            settings.marts, record=self._record, folder=self._paths.work_dir, stop=stop
        )
        self._snapshot: Snapshot | None = None
        if self._type == "duckdb":
            self._snapshot = Snapshot(
                duckdb_file(settings), dataset=settings.dataset,
                installation=installation_id(settings), record=self._record, marts=self._marts,
            )  # fmt: skip
            self._snapshot.refuse_foreign_file(take_over=take_over)
        self.warnings: dict[str, Counter[str]] = {}
        """By table: what couldn't be loaded into a column of its own, and how often."""
        self._is_configured = False  # dlt, for loads into this destination
        self._fills: dict[str, bool] = {}  # by table: it was empty, and got no row twice
        self._stack = ExitStack()
        try:
            if self._type == "postgres":
                self._stack.enter_context(bounded_waits(timeouts))
            self._open()
        except BaseException:
            self._stack.close()
            raise

    def _open(self) -> None:
        self._connection = open_working_file(
            self._paths.working_file,
            self._record,
            snapshot=self._snapshot.path if self._snapshot else None,
        )
        self._stack.callback(self._connection.close)
        with self._watching_for_damage():
            self._open_loader()

    def _open_loader(self) -> None:
        dataset = self._settings.dataset
        self._memory = MemoryLimit(self._connection)
        self.seen = SeenIds(self._connection, dataset)
        duck_warehouse = DuckWarehouse(self._connection, dataset) if self._snapshot else None
        self._warehouse = duck_warehouse or ServerWarehouse(lambda: self.loader.opened.pipeline)
        self.loader = Loader(
            self._open_pipeline,
            dataset=dataset,
            tables=duck_warehouse.columns if duck_warehouse else None,
            folder=self._paths.pipelines_dir,
            connection=self._connection,
        )
        self.history = HistoryTables(
            self._settings.pull,
            kind=destination_kind(self._settings),
            dataset=dataset,
            connection=self._connection,
            warehouse=self._warehouse,
            seen=self.seen,
            columns=self.columns,
            create=self.create_tables,
            attempt=self._attempt,
            note_change=self._note_change,
        )
        self._stack.callback(self.loader.discard_local_files)
        self._attempt(self.loader.open)
        self._settle_clock()
        if not self._snapshot:
            self._try_if_untested()

    def _try_if_untested(self) -> None:
        """Try a scratch table, once per version of dlt, where no real server has been tested."""
        import dlt

        from pipelines.destination.destination_kinds import EMULATED, Level, level_of

        kind = destination_kind(self._settings)
        if level_of(kind) is Level.UNTESTED:
            _log.warning("destination.untested", destination=self._settings.destination)
        elif kind not in EMULATED:
            return
        if self._record.merges_with != dlt.__version__:
            self.try_writing()
            self._record.save(merges_with=dlt.__version__)

    def _open_pipeline(self, folder: Path) -> LoadPipeline:
        """dlt isn't imported before: it takes half a second."""
        from pipelines.destination import destination_kinds, dlt_options, load_packages

        if not self._is_configured:
            # several writers at once have corrupted a file; a repeated job would insert rows twice
            how = {"job_tries": 1, "workers": 1} if self._snapshot else {}
            self._stack.enter_context(dlt_options.own_configuration(**how))
            self._is_configured = True
        destination: Any = (
            load_packages.DuckDb(self._connection)
            if self._snapshot
            else destination_kinds.server_destination(self._settings)
        )
        self._form = destination_kinds.form_of(self._settings, destination)
        return load_packages.LoadPipeline(
            destination, dataset=self._settings.dataset, folder=folder, form=self._form
        )

    def _attempt(self, work: Callable[[], T]) -> T:
        """The result of `work`, retried with more memory, or after others' locks, if necessary."""
        if self._type != "postgres":
            return self._memory.fit(work)
        return wait_out_locks(
            partial(self._memory.fit, work),
            lambda: blockers_of(self.loader.opened.pipeline, self._settings.dataset),
            stop=self._stop,
        )

    @property
    def _has_update(self) -> bool:
        """Whether rows can be changed with SQL."""
        return self._snapshot is not None or self._form.has_update

    # --- loading --------------------------------------------------------------------------------

    def load(self, batches: Sequence[Batch], *, worth_publishing: bool = True) -> None:
        """Upsert all batches in one load package.

        worth_publishing: False for records about runs, which alone don't justify a new copy.

        Raises:
            DestinationRefused: it refuses the rows in every form.
            DestinationError: they can't be written.
        """
        if worth_publishing:
            self._note_change()
        self._warehouse.rows_changed()
        batches = [replace(each, is_new=self._is_new(each)) for each in batches]
        self.history.expect(batches)
        known = {batch.table: self.columns(batch.table) for batch in batches}
        refusals: list[DestinationRefused] = []
        from pipelines.destination.load_packages import forms  # with dlt

        for form in forms(self._type, batches, known):
            try:
                with self._watching_for_damage():  # the caller may catch the error and continue
                    self._load_once(form.batches)
            except DestinationRefused as error:
                _log.info("load.refused", reason=str(error))
                refusals.append(error)
            else:
                for table, counts in form.warnings.items():
                    self.warnings.setdefault(table, Counter()).update(counts)
                break
        else:
            raise refusals[0]
        with self._watching_for_damage():
            self.history.follow(batches)
        if self._snapshot:
            checkpoint = partial(checkpoint_if_due, self._connection, self._paths.working_file)
            self._memory.fit(checkpoint)

    def _load_once(self, batches: Sequence[Batch]) -> None:
        """Load; where a value is longer than an index of ours can hold, without these indexes."""
        try:
            self._attempt(partial(self.loader.load, batches))
        except DestinationRefused as error:
            if self._type != "postgres" or not is_too_big_for_an_index(error):
                raise
            tables = [batch.table for batch in batches if batch.table in CONTRACT]
            pipeline, dataset = self.loader.opened.pipeline, self._settings.dataset
            self._attempt(partial(drop_keys, pipeline, dataset, tables))
            self._record.save(keys_after_s=time.time() + again_after_s(error))
            self._attempt(partial(self.loader.load, batches))

    def record(self, batches: Sequence[Batch], *, worth_publishing: bool = False) -> None:
        """Upsert a few rows that belong to no list: in a file of ours without a load package.

        Raises:
            DestinationError: they can't be written.
        """
        warehouse = self._warehouse
        if not isinstance(warehouse, DuckWarehouse):
            self.load(batches, worth_publishing=worth_publishing)
            return
        self.create_tables(batches)
        if worth_publishing:
            self._note_change()
        with self._watching_for_damage():
            self._attempt(partial(warehouse.upsert, batches))

    def create_tables(self, batches: Sequence[Batch]) -> None:
        """Create what is missing of the batches' tables and columns, and of their histories; loads
        no rows.

        Raises:
            DestinationError: they can't be created.
        """
        batches = [*batches, *self.history.batches(batches)]
        lacking = [
            replace(batch, rows=(), state=None)
            for batch in batches
            if not batch.columns.keys() <= self.columns(batch.table).keys()
        ]
        if not lacking:
            return
        if not isinstance(self._warehouse, DuckWarehouse):
            self.load(lacking)
            return
        self._note_change()
        with self._watching_for_damage():
            self._attempt(partial(self._warehouse.create_tables, lacking))
        self.loader.learn_tables()

    def prepare_histories(self) -> None:
        """Before a run loads anything: complete what an earlier one left undone.

        Raises:
            DestinationError: they can't be read or written.
        """
        with self._watching_for_damage():
            self.history.prepare(self.loader.state_of)

    def _is_new(self, batch: Batch) -> bool:
        """Whether rows may be inserted without a merge: those of a new table, or a list's rows with
        new ids into a table that was empty when this run began. On a server, a load whose answer
        is lost may be repeated."""
        if self._snapshot is None:
            return False
        table, name = batch.table, self.name(batch.table)
        if not self.columns(table):
            self._fills[table] = True
            return True
        if batch.state is None:
            return False
        if self._is_filling(table):
            sql = f"SELECT 1 FROM {name} WHERE id IN ({{ids}}) LIMIT 1"  # noqa: S608
            ids = batch.as_table()["id"].to_pylist()
            self._fills[table] = not self._attempt(partial(self._warehouse.query_ids, sql, ids))
        return self._fills[table]

    def _is_filling(self, table: str) -> bool:
        """Whether a table was empty when this run began, and got no row twice."""
        if table not in self._fills:
            sql = f"SELECT 1 FROM {self.name(table)} LIMIT 1"  # noqa: S608 - names of ours
            self._fills[table] = not self.query(sql)
        return self._fills[table]

    def _note_change(self) -> None:
        if not self._record.is_behind:
            self._record.save(is_behind=True)

    # --- rows -----------------------------------------------------------------------------------

    def columns(self, table: str) -> dict[str, Any]:
        """dlt column schemas of a table by column name; empty if there is no such table yet."""
        return self.loader.columns(table)

    def name(self, table: str) -> str:
        """A table's quoted, qualified name for `query`."""
        return self._warehouse.name(table)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query; its parameters are `%s`. Table names: see `name`."""
        return self._attempt(partial(self._warehouse.query, sql, parameters))

    def changed(
        self, table: str, ids: Sequence[str], hashes: Sequence[str], *, is_listed: bool = True
    ) -> Sequence[int]:
        """Which rows, by their places in `ids`, aren't there with the same content, or are flagged
        deleted. hashes: of their contents.

        is_listed: the rows come from a list, so one that was noted as unlisted has changed, and
        while an empty table is filled all are taken as new.
        """
        columns = self.columns(table)
        if not ids or not columns:
            return range(len(ids))
        if is_listed and self._snapshot is not None and self._is_filling(table):
            return range(len(ids))
        condition = _LISTED if is_listed and UNLISTED_COLUMN in columns else _LIVE
        sql = f"SELECT id, {HASH_COLUMN} FROM {self.name(table)} WHERE {condition}"  # noqa: S608 - names of ours
        return self._attempt(partial(self._warehouse.changed, sql, ids, hashes))

    def known(self, table: str, ids: Sequence[str]) -> set[str]:
        """Which of `ids` have a row that isn't flagged deleted."""
        if not ids or not self.columns(table):
            return set()
        sql = f"SELECT id FROM {self.name(table)} WHERE {_LIVE} AND id IN ({{ids}})"  # noqa: S608
        found = self._attempt(partial(self._warehouse.query_ids, sql, ids))
        return {row[0] for row in found}

    def missing(self, table: str) -> list[str]:
        """Ids of rows, neither flagged deleted nor noted as unlisted, that the scan in `seen`
        hasn't seen."""
        if not self.columns(table):
            return []
        sql = f"SELECT id FROM {self.name(table)} WHERE {_LISTED}"  # noqa: S608 - names of ours
        return self._attempt(partial(self._warehouse.unseen, sql, table, self.seen))

    def tombstone(self, table: str, ids: Sequence[str], at_ms: int) -> None:
        """Flag rows deleted; UTC epoch ms. Their other columns stay."""
        what = {DELETED_COLUMN: True, UNLISTED_COLUMN: False}
        self._flag(table, ids, at_ms, what, _LIVE, also=self.history.ending(table, at_ms))

    def unlist(self, table: str, ids: Sequence[str], at_ms: int) -> None:
        """Note that rows have left their list but still exist; UTC epoch ms."""
        self._flag(table, ids, at_ms, {UNLISTED_COLUMN: True}, _LISTED)

    def _flag(
        self,
        table: str,
        ids: Sequence[str],
        at_ms: int,
        what: Mapping[str, bool],
        where: str,
        *,
        also: Sequence[Statement] = (),
    ) -> None:
        """what: columns that are set to the time, or to null. also: for the same transaction."""
        if not ids:
            return
        self._note_change()
        self._warehouse.rows_changed()
        moment = datetime.fromtimestamp(at_ms / 1000, UTC)
        if not self._has_update:
            self._load_flagged(table, ids, where, what, moment)
            return
        sets = ", ".join(f"{name} = {'%s' if is_now else 'NULL'}" for name, is_now in what.items())
        sql = f"UPDATE {self.name(table)} SET {sets} WHERE {where} AND id IN ({{ids}})"  # noqa: S608
        moments = [moment for is_now in what.values() if is_now]
        self._attempt(partial(self._warehouse.execute_ids, [(sql, moments), *also], ids))

    def _load_flagged(
        self, table: str, ids: Sequence[str], where: str, what: Mapping[str, bool], at: datetime
    ) -> None:
        """Load whole rows again with their flags, where SQL can't change a row."""
        columns = self.columns(table)
        listed = ", ".join(columns)
        sql = f"SELECT {listed} FROM {self.name(table)} WHERE {where} AND id IN ({{ids}})"  # noqa: S608
        found = self._attempt(partial(self._warehouse.query_ids, sql, ids))
        flags = {name: at if is_now else None for name, is_now in what.items()}
        rows = [{**dict(zip(columns, row, strict=True)), **flags} for row in found]
        if rows:
            self.load([Batch(table, rows, columns)], worth_publishing=False)

    def unlisted(self, table: str) -> list[str]:
        """Ids of live rows that are noted as unlisted."""
        if UNLISTED_COLUMN not in self.columns(table):
            return []
        sql = (
            f"SELECT id FROM {self.name(table)} "  # noqa: S608 - names of ours
            f"WHERE {_LIVE} AND {UNLISTED_COLUMN} IS NOT NULL"
        )
        return [row[0] for row in self.query(sql)]

    def live_count(self, table: str) -> int:
        """Rows not flagged deleted; 0 where there is no such table yet."""
        if not self.columns(table):
            return 0
        sql = f"SELECT count(*) FROM {self.name(table)} WHERE {_LIVE}"  # noqa: S608 - names of ours
        return int(self.query(sql)[0][0])

    def try_writing(self) -> str:
        """Load, merge and delete rows of a scratch table where rows would land; returns the
        destination's display name.

        Raises:
            ConfigurationError: it doubles or loses rows.
            DestinationError: it can't be written.
        """
        if self._snapshot is None:
            from pipelines.destination.destination_kinds import try_merging

            destination = self.loader.opened.pipeline.destination
            self._attempt(partial(try_merging, self._settings, destination, self._form))
            return f"{self._settings.destination}, schema {self._settings.dataset}"
        name = self.name(_TRIAL)
        with translated():
            self._attempt(self._warehouse.create_dataset)
            self.query(f"DROP TABLE IF EXISTS {name}")
            self.query(f"CREATE TABLE {name} (id VARCHAR, note VARCHAR)")
            self.query(f"INSERT INTO {name} VALUES ('a', '1')")  # noqa: S608 - a name of ours
            self.query(f"DELETE FROM {name} WHERE id = 'a'")  # noqa: S608 - a name of ours
            self.query(f"DROP TABLE {name}")
        self._snapshot.try_publishing()
        return str(self._snapshot.path)

    def complete_tables(self) -> None:
        """On PostgreSQL: comments on tables and columns, primary keys and indexes, where they are
        missing. What can't be had is one warning, and is tried again after a while."""
        if self._type != "postgres" or time.time() < self._record.keys_after_s:
            return
        pipeline, dataset = self.loader.opened.pipeline, self._settings.dataset
        tables = self.loader.opened.columns()
        try:
            write_comments(pipeline, dataset, tables)
            made = make_keys(pipeline, dataset, tables)
        except ConnectorError as error:
            self._record.save(keys_after_s=time.time() + again_after_s(error))
        else:
            if made:
                _log.info("destination.keys", made=made)

    def _settle_clock(self) -> None:
        """Date states back that were stored by a clock which was ahead: dlt numbers loads by the
        clock, and takes the highest number for the newest, also once there are newer ones."""
        if not self._has_update or not self.columns("_dlt_pipeline_state"):
            return
        states, loads = self.name("_dlt_pipeline_state"), self.name("_dlt_loads")
        now_s = time.time()
        sql = f"SELECT _dlt_load_id FROM {states} WHERE pipeline_name = %s"  # noqa: S608
        found = [load for (load,) in self.query(sql, [PIPELINE_NAME])]
        begun_s = {load: float(load) for load in found if re.fullmatch(r"\d+\.\d+", load)}
        ahead_s = max(begun_s.values(), default=now_s) - now_s
        renumbered: list[Statement] = []
        for load, at_s in begun_s.items():
            if at_s > now_s:
                values = (f"{at_s - ahead_s:.7f}", load)
                for table, column in ((states, "_dlt_load_id"), (loads, "load_id")):
                    sql = f"UPDATE {table} SET {column} = %s WHERE {column} = %s"  # noqa: S608
                    renumbered.append((sql, values))
        if renumbered:
            # whatever the difference: a state stored now has to be the newest
            log = _log.warning if ahead_s > _SKEW_S else _log.info
            log("destination.clock_set_back", ahead_s=round(ahead_s, 1))
            self._attempt(partial(self._warehouse.execute_ids, renumbered))

    def forget_old_loads(self) -> None:
        """Delete old states that dlt would keep forever, one for each load. Those of other
        pipelines in the dataset are theirs."""
        if not self._has_update or not self.columns("_dlt_pipeline_state"):
            return  # it hasn't loaded anything yet, or can't delete with SQL
        own = f"FROM {self.name('_dlt_pipeline_state')} WHERE pipeline_name = %s"
        # by load, as dlt finds the newest one: versions begin again where dlt lost its state
        loads = sorted(
            load for (load,) in self.query(f"SELECT _dlt_load_id {own}", [PIPELINE_NAME])
        )
        if old := loads[:-_KEPT_STATES]:
            sql = f"DELETE {own} AND _dlt_load_id IN ({{ids}})"
            self._attempt(partial(self._warehouse.query_ids, sql, old, [PIPELINE_NAME]))

    # --- the snapshot ---------------------------------------------------------------------------

    @property
    def is_published(self) -> bool:
        """Whether readers see every row that has landed."""
        return self._snapshot is None or not self._record.is_behind

    def publish(self) -> bool:
        """Publish a new copy for analysts if rows have landed or another process changed the old
        one; True if so. Otherwise update only its tables about runs. On PostgreSQL, bring the views
        of the marts up to date.
        """
        if self._snapshot is None:
            if self._type == "postgres":
                self._update_views()
            return False
        return self._memory.fit(partial(self._snapshot.publish, self._connection))

    def _update_views(self) -> None:
        try:
            with translated(), self.loader.opened.pipeline.sql_client() as client:
                self._marts.update_views(client.native_connection, client.dataset_name)
            self._marts.report()
        except DestinationError as error:  # rows have landed, and the next run tries again
            _log.warning("marts.failed", reason=str(error))

    def close(self) -> None:
        """Close the working file; a second call does nothing."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()
        if error is not None:
            self._suspect(error)

    @contextmanager
    def _watching_for_damage(self) -> Iterator[None]:
        """If the working file fails, have the next run check it."""
        try:
            yield
        except (duckdb.Error, DestinationError) as error:
            self._suspect(error)
            raise

    def _suspect(self, error: BaseException) -> None:
        if self._snapshot is None:
            from dlt.common.destination.exceptions import DestinationException

            if any(isinstance(each, DestinationException) for each in chain(error)):
                return  # DuckLake's, say, which DuckDB reports
        if failed := damage_suspected(self._paths.working_file, self._record, error):
            raise failed from error
        if isinstance(error, duckdb.Error):
            raise load_failed(error) from error
