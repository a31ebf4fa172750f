"""JSON Lines, Parquet, tables and queries: every type handed out, or its cell named."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from datetime import UTC, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connector.errors import DoubledColumn, InputError
from connector.upsert.inputs import InputRow, open_input
from connector.upsert.inputs.table_reader import sql_input, table_input
from connector.upsert.rows.cells import Unreadable
from connector.upsert.rows.column_mapping import match_columns
from connector.upsert.rows.row_checks import Reject, Validator, ValidRow
from tests.unit.upsert_input.conftest import INPUTS, WriteFile


def checked(read: Any) -> list[ValidRow | Reject]:
    columns = match_columns(read.columns, location=read.name, from_table=read.from_table)
    return [Validator(columns).check(row) for row in read]


def test_json_lines_have_the_columns_of_all_their_lines(write: WriteFile) -> None:
    """A name that comes last is a column too; blank lines are counted, lines numbered."""
    text = '{"firstName":"A","labels":["x"]}\n\n{"lastName":"B","n":1.5}\r\n{"deep":{"a":null}}'
    read = open_input(write(text, "utf-8-sig", name="people.jsonl"))
    assert read.columns == ["firstName", "labels", "lastName", "n", "deep"]
    assert [(row.row_number, row.values) for row in read] == [
        (1, {"firstName": "A", "labels": ["x"]}),
        (3, {"lastName": "B", "n": 1.5}),
        (4, {"deep": {"a": None}}),
    ]
    assert read.notes == ["empty rows skipped: 1 (row 2)"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"a":', "isn't valid JSON"),
        ("[1]", "isn't a JSON object"),
        ("null", "isn't a JSON object"),
        ('{"a":1,"a":2}', "a name appears twice"),
        ('{"a":NaN}', "NaN isn't JSON"),
        ('{"a":' + "[" * 100_000, "isn't valid JSON"),
        ('{"a":' + "[" * 900 + "]" * 900 + "}", "nested more than 64 deep"),
        ('{"a":' + "1" * 5_000 + "}", "isn't valid JSON (a number that is too long)"),
        ('{"a":"' + "x" * 9_000_000 + '"}', "a line of more than 8 million characters"),
    ],
)
def test_a_line_that_isnt_an_object_is_named(write: WriteFile, line: str, problem: str) -> None:
    """The lines around it are read."""
    rows = list(open_input(write(f'{{"a":1}}\n{line}\n{{"a":2}}\n', name="x.jsonl")))
    assert [row.row_number for row in rows] == [1, 2, 3]
    assert str(rows[1].problem).startswith(problem)
    assert rows[1].values == {}
    assert rows[2].values == {"a": 2}


def test_a_key_that_a_line_does_not_mention_is_absent_not_empty(write: WriteFile) -> None:
    """`values` has no such key; null and "" are there. Only these may ever clear a field."""
    text = '{"a":1,"b":2}\n{"a":3}\n{"a":4,"b":null}\n{"a":5,"b":""}\n'
    rows = list(open_input(write(text, name="x.jsonl")))
    assert [row.values for row in rows[1:]] == [{"a": 3}, {"a": 4, "b": None}, {"a": 5, "b": ""}]


def test_a_comma_at_the_end_of_a_line_is_read_over_and_reported() -> None:
    """Lines cut out of a JSON list have one."""
    read = open_input(INPUTS / "comma-at-the-end.jsonl")
    assert [row.values["firstName"] for row in read] == ["Mara", "Tom"]
    assert read.notes == ["lines whose comma at the end was ignored: 1"]


def test_a_line_of_invalid_json_is_described_by_column_and_length_alone(write: WriteFile) -> None:
    """The line itself, which may name people, is for the rejects file."""
    line = '{"name": "Ann Lee" "phone": 4155550100}'
    _, row = open_input(write(f'{{"a": 1}}\n{line}\n', name="x.jsonl"))
    assert row.problem == (
        "isn't valid JSON (Expecting ',' delimiter at column 20 of 39 characters). Write one "
        "object per line."
    )
    assert row.raw == line


def test_json_lines_without_a_name_are_refused(write: WriteFile) -> None:
    """There is nothing to push."""
    with pytest.raises(
        InputError, match="line 2: isn't a JSON object.* No line of this file holds"
    ):
        open_input(write("{}\n[]\n", name="x.jsonl"))
    with pytest.raises(InputError, match="no line holds a JSON object"):
        open_input(write("{}\n", name="x.jsonl"))


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("labels", "[" * 100_000),
        ("labels", '["' + "[" * 100_000),
        ("resume", '{"a":' * 100_000),
        ("resume", '{"a":' * 700 + "1" + "}" * 700),
    ],
)
def test_json_in_a_cell_is_as_deep_as_it_may_be(column: str, cell: str) -> None:
    """A deep one rejects its row, or is a label of its own; the push continues."""
    row = {"firstName": "A", "lastName": "B", "email": "a@b.co", column: cell}
    checked = Validator(match_columns(list(row))).check(InputRow(1, row))
    assert isinstance(checked, Reject)
    assert column in checked.reason


def test_names_without_number_are_refused(write: WriteFile) -> None:
    """A name per value isn't a table; each would be a column."""
    text = "".join(f'{{"n{n}": 1, "m{n}": 1}}\n' for n in range(11_000))
    with pytest.raises(InputError, match="more than 20,000 different names by line 10001"):
        open_input(write(text, name="x.jsonl"))


def test_json_lines_are_recognized_by_their_first_byte(write: WriteFile) -> None:
    """Whatever the name, zipped or not."""
    path = write(gzip.compress(b'{"a": 1}\n'), name="export.txt.gz")
    assert open_input(path).description == "JSON Lines, UTF-8"


def test_parquet_is_read_in_order_with_positions(write: WriteFile, tmp_path: Path) -> None:
    """More rows than one batch; zipped too; iterating starts over."""
    path = tmp_path / "people.parquet"
    pq.write_table(pa.table({"a": range(12_000)}), path)
    zipped = write(gzip.compress(path.read_bytes()), name="people.parquet.gz")
    for read in (open_input(path), open_input(zipped)):
        assert [row.values["a"] for row in read] == list(range(12_000))
        assert [row.row_number for row in read] == list(range(1, 12_001))


def test_a_damaged_parquet_file_is_refused(write: WriteFile) -> None:
    """One error, no traceback."""
    with pytest.raises(InputError, match="can't be read as Parquet"):
        open_input(write(b"PAR1 and no more", name="x.parquet"))


TYPES = """
    SELECT 'Ann' first_name, 'Lee' last_name, 'ann@example.com' email, 4155550100::BIGINT phone,
    1.50::DECIMAL(10, 2) title, uuid() company, '["x", "y"]'::JSON labels, true mute_webhook,
    {'a': DATE '2025-01-02', 'b': [1, 2]} resume, 'licensed'::ENUM('licensed', 'x') license_status,
    TIMESTAMPTZ '2025-07-01 13:00:00.123Z' "note.date", 'hi' "note.body",
    12::HUGEINT postal_code, 0.5::FLOAT office, TIME '01:02:03' source
"""


def test_every_type_that_has_a_text_is_sent() -> None:
    """Numbers, decimals, UUIDs, JSON, structs, enums, times."""
    with duckdb.connect() as connection:
        (row,) = checked(sql_input(connection, TYPES))
    assert isinstance(row, ValidRow)
    company = row.payload.pop("company")
    assert len(company) == 36
    assert row.payload == {
        "firstName": "Ann",
        "lastName": "Lee",
        "email": "ann@example.com",
        "phone": "+14155550100",
        "title": "1.50",
        "labels": ["x", "y"],
        "muteWebhook": True,
        "resume": {"a": "2025-01-02", "b": [1, 2]},
        "licenseStatus": "licensed",
        "postalCode": "12",
        "office": "0.5",
        "source": "01:02:03",
        "update": True,
    }
    assert row.activities[0].payload["date"] == 1751374800123


@pytest.mark.parametrize(
    "value",
    [
        *("'x'::BLOB", "[1, 2]", "{'a': 1}", "MAP {'a': 1}", "INTERVAL 3 DAY", "'101'::BIT"),
        *("true", "'NaN'::FLOAT", "'infinity'::TIMESTAMP", "DATE '20000-01-01'", "[1, 2]::INT[2]"),
    ],
)
def test_every_type_that_has_none_is_named_by_cell(value: str) -> None:
    """The row is rejected, the next one is sent."""
    query = f"""
        SELECT 'Ann' first_name, 'Lee' last_name, 'a@b.co' email, {value} company
        UNION ALL BY NAME SELECT 'Bob', 'Lee', 'b@b.co', NULL
    """.replace("'Bob', 'Lee', 'b@b.co', NULL", "'Bob' first_name, 'Lee' last_name, 'b@b.co' email")
    with duckdb.connect() as connection:
        bad, good = checked(sql_input(connection, query))
    assert isinstance(bad, Reject)
    assert bad.column == "company"
    assert isinstance(good, ValidRow)


def test_nanoseconds_are_read_to_the_microsecond() -> None:
    """Which is more than the API keeps."""
    with duckdb.connect() as connection:
        (row,) = sql_input(connection, "SELECT TIMESTAMP_NS '2025-01-02 03:04:05.123456789' t")
    assert row.values["t"] == datetime(2025, 1, 2, 3, 4, 5, 123456)


def test_a_table_is_found_by_name_whatever_is_in_the_name() -> None:
    """Quoted, never pasted; with its schema, or without; the schema asked for comes first."""
    with duckdb.connect() as connection:
        connection.execute('CREATE SCHEMA "my ""data"""')
        connection.execute('CREATE TABLE "my ""data"""."odd; DROP TABLE x" AS SELECT 1 a')
        connection.execute("CREATE TABLE x AS SELECT 2 a")
        connection.execute('CREATE TABLE "my ""data""".x AS SELECT 3 a')
        found = {
            name: [row.values["a"] for row in table_input(connection, name, schema=schema)]
            for name, schema in (
                ("odd; DROP TABLE x", None),
                ('my "data".x', None),
                ("x", 'my "data"'),
            )
        }
        assert found == {"odd; DROP TABLE x": [1], 'my "data".x': [3], "x": [3]}
        assert [row.values["a"] for row in table_input(connection, "x")] == [2]
        with pytest.raises(InputError, match="no such table or view. Did you mean"):
            table_input(connection, "odd; DROP TABLE y")


def test_a_pulled_table_can_be_pushed_as_it_is() -> None:
    """Its read-only columns are ignored; people who were deleted aren't created again."""
    with duckdb.connect() as connection:
        connection.execute("""
            CREATE TABLE prospects AS SELECT * FROM (VALUES
                ('p1', 'Ann', 'Lee', 'a@b.co', now(), NULL::TIMESTAMPTZ, 'x'),
                ('p2', 'Bob', 'Lee', 'b@b.co', now(), now(), 'y')
            ) t(id, first_name, last_name, email, created_at, _hc_deleted_at, _dlt_id)
        """)
        kept, deleted = checked(table_input(connection, "prospects"))
    assert isinstance(kept, ValidRow)
    assert isinstance(deleted, Reject)
    assert deleted.column == "_hc_deleted_at"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT nope", "Binder Error"),
        ("SELECT * FROM columns", "Catalog Error"),
        ("SELEC 1", "Parser Error"),
        ("CREATE TABLE t(a INT)", "isn't one SELECT"),
        ("SELECT 1; SELECT 2", "isn't one SELECT"),
        ("", "isn't one SELECT"),
    ],
)
def test_a_query_that_is_not_one_select_is_refused(query: str, message: str) -> None:
    """Before anything runs."""
    with duckdb.connect() as connection:
        with pytest.raises(InputError, match=message):
            sql_input(connection, query)
        assert connection.execute("SHOW TABLES").fetchall() == []
        assert [row.values for row in sql_input(connection, "SELECT 1 a; -- one")] == [{"a": 1}]


def test_a_query_that_fails_halfway_is_an_error_without_personal_data() -> None:
    """What the database quotes is masked."""
    query = "SELECT CAST(x AS INT) a FROM (VALUES ('1'), ('ann@example.com')) t(x)"
    with duckdb.connect() as connection:
        read = sql_input(connection, query)
        with pytest.raises(InputError, match="Conversion Error") as caught:
            list(read)
    assert "ann@example.com" not in str(caught.value)


def test_two_columns_of_one_name_are_refused() -> None:
    """One of them would be lost."""
    with duckdb.connect() as connection, pytest.raises(DoubledColumn, match="two columns"):
        sql_input(connection, "SELECT 1 a, 2 a")


def test_a_database_file_is_opened_read_only(write: WriteFile, tmp_path: Path) -> None:
    """While others read it; a missing file, or another one, is an error."""
    path = tmp_path / "people.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE t AS SELECT range a FROM range(3)")
    path.chmod(0o444)
    with duckdb.connect(str(path), read_only=True):
        assert [row.values["a"] for row in table_input(path, "t")] == [0, 1, 2]
        assert [row.values["a"] for row in sql_input(path, "SELECT sum(a) a FROM t")] == [
            Decimal(3)
        ]
    for bad, message in (
        (tmp_path / "none", "no such database file"),
        (write("x" * 5000, name="x.duckdb"), "can't be opened as a DuckDB database"),
    ):
        with pytest.raises(InputError, match=message):
            table_input(bad, "t")


def test_a_timestamp_with_a_zone_is_the_same_moment() -> None:
    """Whatever zone the session is in."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'Asia/Tokyo'")
        (row,) = sql_input(connection, "SELECT TIMESTAMPTZ '2025-01-02 03:04:05Z' t")
    assert row.values["t"] == datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            "340282366920938463463374607431768211455::UHUGEINT",
            "340282366920938463463374607431768211455",
        ),
        (
            "-170141183460469231731687303715884105727::HUGEINT",
            "-170141183460469231731687303715884105727",
        ),
        (
            "'123456789012345678901234567890123456789012'::BIGNUM",
            "123456789012345678901234567890123456789012",
        ),
        ("18446744073709551615::UBIGINT", "18446744073709551615"),
        ("1.1::FLOAT", "1.1"),
        ("16777216::FLOAT", "16777216"),
        ("0.1::DOUBLE", "0.1"),
        ("1.10::DECIMAL(38, 2)", "1.10"),
        ("'01:02:03+02'::TIMETZ", "01:02:03+02"),
        ("TIME '01:02:03.5'", "01:02:03.500000"),
        ("'01:02:03.123456789'::TIME_NS", "01:02:03.123456789"),
        ("'2025-01-02 03:04:05'::TIMESTAMP_S", "2025-01-02T03:04:05"),
        ("'2025-01-02 03:04:05.123'::TIMESTAMP_MS", "2025-01-02T03:04:05.123000"),
        ("42::VARIANT", "42"),
        ("'\"Acme\"'::JSON", "Acme"),
        ("'{\"at\": \"02134\"}'::JSON -> 'at'", "02134"),
        ("'12.50'::JSON", "12.50"),
        ("'{\"a\": 1}'::JSON", '{"a": 1}'),
    ],
)
def test_what_arrow_would_change_arrives_as_duckdb_shows_it(value: str, text: str) -> None:
    """The largest integers, floats of 32 bits, times with their offset; and a column whose name
    differs in case alone stays another column."""
    query = f"""SELECT 'Ann' "firstName", 'Lee' "lastName", 'a@b.co' email, {value} company"""
    with duckdb.connect() as connection:
        (row,) = checked(sql_input(connection, query))
        assert isinstance(row, ValidRow)
        assert row.payload["company"] == text
        (both,) = sql_input(connection, f'SELECT {value} a, 2 "A"')
        assert both.values["A"] == 2


def test_null_in_json_is_an_empty_cell_and_lists_hold_texts() -> None:
    """It isn't the word null; nor are the quotes of JSON part of a label."""
    query = """SELECT 'null'::JSON a, '["A", "B", 1, null]'::JSON -> '$[*]' b, NULL::JSON c"""
    with duckdb.connect() as connection:
        (row,) = sql_input(connection, query)
    assert row.values == {"a": None, "b": ["A", "B", "1", None], "c": None}


def test_what_arrow_would_change_is_right_within_lists_and_structs() -> None:
    """An object's floats are those that were written, its times have their offset."""
    query = "SELECT {'a': [1.1::FLOAT], 'b': '01:02:03+02'::TIMETZ, 'c': 5::UHUGEINT} resume"
    with duckdb.connect() as connection:
        (row,) = sql_input(connection, query)
    assert row.values["resume"] == {"a": [1.1], "b": "01:02:03+02", "c": "5"}


def test_digits_that_a_double_has_made_up_are_rejected() -> None:
    """An id that went through a floating-point number may be another person's."""
    query = "SELECT 12345678901234567890::DOUBLE a UNION ALL SELECT 5551234567::DOUBLE"
    with duckdb.connect() as connection:
        first, second = sql_input(connection, query)
    assert isinstance(first.values["a"], Unreadable)
    assert second.values["a"] == 5551234567.0


def test_parquet_keeps_what_its_types_mean(tmp_path: Path) -> None:
    """Short floats, decimals, nanoseconds; a time marked as UTC by others than Arrow has that."""
    path = tmp_path / "x.parquet"
    pq.write_table(
        pa.table(
            {
                "f": pa.array([1.1, None], pa.float32()),
                "h": pa.array([0.1, 2.0], pa.float16()),
                "l": pa.array([[1.1], []], pa.list_(pa.float32())),
                "d": pa.array([Decimal("1.10"), None], pa.decimal256(40, 2)),
                "n": pa.array([1735787045123456789, None], pa.timestamp("ns")),
                "t": pa.array([3723000000, None], pa.time64("us")),
                "s": pa.array(["same", "same"]).dictionary_encode(),
            }
        ),
        path,
    )
    first, second = open_input(path)
    assert first.values == {
        "f": 1.1,
        "h": 0.1,
        "l": [1.1],
        "d": Decimal("1.10"),
        "n": datetime(2025, 1, 2, 3, 4, 5, 123456),
        "t": time(1, 2, 3),
        "s": "same",
    }
    assert second.values["f"] is None
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT '03:02:03+02'::TIMETZ t, TIME '01:02:03' u) TO '{path}' (FORMAT parquet)"
        )
    (row,) = open_input(path)
    assert row.values == {"t": time(1, 2, 3, tzinfo=UTC), "u": time(1, 2, 3)}


def test_a_long_text_that_all_rows_share_takes_its_memory_once(tmp_path: Path) -> None:
    """A thousand bytes of Parquet would be six gigabytes: rows come in slices that fit."""
    path = tmp_path / "x.parquet"
    table = pa.table({"a": pa.array(["x" * 1_000_000]).dictionary_encode().take([0] * 3_000)})
    pq.write_table(table, path, dictionary_pagesize_limit=1 << 24)
    before = pa.default_memory_pool().max_memory()
    with open_input(path) as read:
        assert sum(len(row.values["a"]) for row in read) == 3_000_000_000
    assert pa.default_memory_pool().max_memory() <= max(before, 400 * 1024**2)


def long_list() -> pa.Table:
    return pa.table({"a": pa.array([[1] * 6_000_000], pa.list_(pa.int8()))})


def many_rows() -> pa.Table:
    buffers = [None, pa.py_buffer(bytes(21_000_000))]
    return pa.table({"a": pa.Array.from_buffers(pa.int8(), 21_000_000, buffers)})


def long_row() -> pa.Table:
    return pa.table({"a": pa.array([["x" * 1_000_000] * 70])})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (long_list, "6,000,000 items of lists in a row group, and the limit is 5,000,000"),
        (many_rows, "21,000,000 rows, and the limit is 20,000,000"),
        (long_row, "rows of more than 64 MB, the limit"),
    ],
)
def test_parquet_beyond_a_limit_is_refused(
    tmp_path: Path, make: Callable[[], pa.Table], message: str
) -> None:
    """A few kilobytes each; the error names the limit."""
    path = tmp_path / "x.parquet"
    pq.write_table(make(), path, compression="zstd", dictionary_pagesize_limit=1 << 24)
    with pytest.raises(InputError, match=message):
        list(open_input(path))


@pytest.mark.parametrize("value", ["Wants a raise", "it's a secret: a raise", 'says "a raise"'])
def test_a_value_that_a_query_fails_with_is_not_reported(value: str) -> None:
    """What is wrong is reported; a note's text has no place in a log."""
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE notes AS SELECT ? AS body", [value])
        with pytest.raises(InputError, match="to INT32") as caught:
            list(sql_input(connection, "SELECT body::INT FROM notes"))
    assert "raise" not in str(caught.value)
