"""JSON Lines, Parquet, tables and queries: every type handed out, or its cell named."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connector.errors import DoubledColumn, InputError
from connector.upsert.inputs import open_input, sql_input, table_input
from connector.upsert.rows.mapping import Mapping
from connector.upsert.rows.validation import Reject, Validator, ValidRow
from tests.unit.upsert_input.conftest import INPUTS, WriteFile


def checked(read: Any) -> list[ValidRow | Reject]:
    columns = Mapping.match(read.columns, place=read.name, from_table=read.from_table)
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
    assert read.notes == ["empty rows passed over: 1 (row 2)"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"a":', "no valid JSON"),
        ("[1]", "no JSON object"),
        ("null", "no JSON object"),
        ('{"a":1,"a":2}', "a name stands twice"),
        ('{"a":NaN}', "NaN is no JSON"),
        ('{"a":' + "[" * 100_000, "no valid JSON"),
    ],
)
def test_a_line_that_is_no_object_is_named(write: WriteFile, line: str, problem: str) -> None:
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
    assert read.notes == ["lines with a comma at their end, which was read over: 1"]


def test_a_line_that_is_no_json_is_told_by_column_and_length_alone(write: WriteFile) -> None:
    """The line itself, which may name people, is for the rejects file."""
    line = '{"name": "Ann Lee" "phone": 4155550100}'
    _, row = open_input(write(f'{{"a": 1}}\n{line}\n', name="x.jsonl"))
    assert row.problem == (
        "no valid JSON (Expecting ',' delimiter at column 20 of 39 characters). Write one object "
        "per line."
    )
    assert row.raw == line


def test_json_lines_without_a_name_are_refused(write: WriteFile) -> None:
    """There is nothing to push."""
    with pytest.raises(InputError, match="line 2: no JSON object.* No line of this file holds"):
        open_input(write("{}\n[]\n", name="x.jsonl"))
    with pytest.raises(InputError, match="no line holds a JSON object"):
        open_input(write("{}\n", name="x.jsonl"))


def test_json_lines_are_told_by_their_first_byte(write: WriteFile) -> None:
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
    """Its read-only columns are passed over; who was deleted isn't created anew."""
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
    """While others read it; what is no database, or isn't there, is an error."""
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


@pytest.mark.parametrize("value", ["Wants a raise", "it's a secret: a raise", 'says "a raise"'])
def test_a_value_that_a_query_fails_with_is_not_told(value: str) -> None:
    """What is wrong is told; a note's text is nobody's business in a log."""
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE notes AS SELECT ? AS body", [value])
        with pytest.raises(InputError, match="to INT32") as caught:
            list(sql_input(connection, "SELECT body::INT FROM notes"))
    assert "raise" not in str(caught.value)
