"""Files damaged at random: rows, or one InputError; nothing else, whatever the bytes."""

from __future__ import annotations

import io
import random
from contextlib import suppress

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connector.errors import InputError
from connector.upsert.inputs import InputRow, open_input
from tests.unit.upsert_input.conftest import WriteFile


def workbook() -> bytes:
    book, content = openpyxl.Workbook(), io.BytesIO()
    for number in range(20):
        book.active.append([f"a{number}", number, "=1+1", "#N/A"])
    book.active["D5"].data_type = "e"
    book.save(content)
    return content.getvalue()


def parquet() -> bytes:
    content = io.BytesIO()
    rows = range(200)
    columns = {"a": [f"x{n}" for n in rows], "b": list(rows), "c": [{"d": [n]} for n in rows]}
    pq.write_table(pa.table(columns), content)
    return content.getvalue()


def damaged(content: bytes, dice: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(dice.randint(1, 5)):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    if dice.random() < 0.2:
        del changed[dice.randrange(8, len(changed)) :]
    return bytes(changed)


@pytest.mark.parametrize("make", [workbook, parquet])
def test_a_damaged_file_of_records_is_refused_or_read(write: WriteFile, make: object) -> None:
    """Three hundred damages each, the same every time."""
    content, dice = make(), random.Random(20)  # type: ignore[operator]
    for _ in range(300):
        path = write(damaged(content, dice), name="damaged")
        with suppress(InputError), open_input(path) as read:
            assert all(isinstance(row, InputRow) for row in read)


_bytes_of_text = st.lists(
    st.sampled_from(
        [
            *(b"a", b"\xe9", b"\xc3\xa9", b",", b";", b'"', b'""', b"\n", b"\r\n", b"\r"),
            *(b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"{", b'{"a":1}', b"\xd8", b" "),
        ]
    ),
    max_size=40,
).map(b"".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(_bytes_of_text)
def test_any_bytes_are_refused_or_every_line_is_accounted_for(
    write: WriteFile, content: bytes
) -> None:
    """Rows come in order, each on a line of its own, after the header."""
    with suppress(InputError), open_input(write(content)) as read:
        numbers = [row.row_number for row in read]
        assert numbers == sorted(set(numbers))
