"""Bodies are read to the last digit, whatever orjson thinks of them."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector import logs
from connector.api.envelopes import KeptAsText, NotJson, describe, error_text, read_json

_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(_values)
def test_every_value_that_the_standard_library_writes_is_read_back_exactly(value: object):
    """Integers of any size and lone surrogates included."""
    assert read_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**64, 10**30, -(10**30), 10**400])
def test_integers_over_64_bits_keep_their_digits(number: int):
    """orjson alone would turn them into floats without a word."""
    body = f'{{"items": [{{"id": {number}}}]}}'.encode()
    assert read_json(body) == {"items": [{"id": number}]}
    assert type(read_json(body)["items"][0]["id"]) is int


def test_orjson_still_rounds_such_integers():
    """The day it doesn't, the detour can go."""
    assert orjson.loads(str(2**64).encode()) == float(2**64)


def test_an_integer_too_long_for_python_is_kept_as_text():
    """Python refuses to read more than 4300 digits; the row is still worth having."""
    digits = "9" * 5000
    assert read_json(f"[{digits}]".encode()) == [digits]


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'["\\ud800"]', ["\ud800"]),
        (b'["\xed\xa0\x80"]', ["\ud800"]),
        (b'["caf\xe9"]', ["caf\udce9"]),
        (b"\xef\xbb\xbf[1]", [1]),
        ('["é"]'.encode("utf-16"), ["é"]),
        (b"[1e400, -1e400]", ["1e400", "-1e400"]),
        (b"[NaN, Infinity]", ["NaN", "Infinity"]),
        (b'["\\u0000"]', ["\x00"]),
    ],
)
def test_odd_bodies_are_read_not_refused(body: bytes, value: object):
    """One malformed record must not cost its page."""
    assert read_json(body) == value


@pytest.mark.parametrize(
    ("body", "looks_like"),
    [
        (b"", "an empty body"),
        (b" \n", "an empty body"),
        (b"<html><head><title>Bad  gateway</title>", "an HTML page titled 'Bad gateway'"),
        (b"<!DOCTYPE html><p>no", "an HTML page"),
        (b'{"items": [{"id": "1"}', "22 bytes of incomplete JSON"),
        (b"upstream error", "14 bytes of text"),
        (b"\xff\xfe\xfd", "3 bytes of text"),
        (b"[" * 100_000, "100000 bytes of incomplete JSON"),
    ],
)
def test_an_error_describes_what_an_invalid_json_body_looks_like(body: bytes, looks_like: str):
    """For the error message; never by quoting records."""
    assert describe(body) == looks_like
    with pytest.raises(NotJson, match="not JSON"):
        read_json(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_no_json(body: bytes):
    """No other exception comes out, and the reason can be printed anywhere."""
    try:
        read_json(body)
    except NotJson as error:
        str(error).encode()
    error_text(body).encode()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error": "Bad request", "message": "limit too high"}', "Bad request: limit too high"),
        (b'{"message": "limit too high"}', "limit too high"),
        (b'{"error": {"code": "E7", "message": "no"}}', "E7: no"),
        (b'{"error": "Same", "message": "Same"}', "Same"),
        (
            b'{"success": false, "errors": [{"field": "company", "message": "bad"}, "worse", 5]}',
            "company: bad; worse",
        ),
        (b'{"error": "No", "errors": [{"message": "why"}, {"code": 1}]}', "No: why"),
        (b"{}", "no reason was given"),
        (b"[]", "no reason was given"),
        (b"<title>Nope</title>", "an HTML page titled 'Nope'"),
        (b'{"message": "jane@example.com has +1 555 123 4567"}', "*** has ***"),
        (b'{"message": "lone \\ud800"}', "lone ?"),
    ],
)
def test_an_error_answer_is_one_line_without_personal_data(body: bytes, text: str):
    """The API's own words, masked."""
    assert error_text(body) == text


def test_an_error_that_quotes_the_key_is_masked():
    """Some servers repeat what they refuse."""
    logs.hide("hc_live_secret_1")
    assert error_text(b'{"message": "unknown key hc_live_secret_1"}') == "unknown key ***"


def test_a_long_error_is_cut():
    """A stack trace isn't a message."""
    assert len(error_text(b'{"message": "' + b"x" * 5000 + b'"}')) == 300


@pytest.mark.parametrize(
    "number", ["12345678901234567.89", "1e-400", "9007199254740993.0", "3.14159265358979323846"]
)
def test_a_number_that_no_double_holds_is_kept_as_text(number: str):
    """With what is warned about; orjson would round it without a word."""
    (item,) = read_json(f'{{"items": [{{"score":{number}}}]}}'.encode())["items"]
    assert item == {"score": number}
    assert isinstance(item["score"], KeptAsText)
    assert "kept as text" in item["score"].why


@pytest.mark.parametrize(
    "number", ["0.1", "0.10000000000000001", "1.50", "1e-7", "5e-324", "1767225600000.125", "1e300"]
)
def test_a_number_that_a_double_holds_stays_one(number: str):
    """However it is spelt; 17 digits are how C prints any double."""
    assert read_json(f"[{number}]".encode()) == [float(number)]


@pytest.mark.parametrize(
    ("depth", "inmost"), [(61, "[x]"), (900, "x"), (3000, "]}"), (100_000, "x"), (100_000, "]}")]
)
@pytest.mark.parametrize("signs", ["[]", "{}"])
def test_what_is_nested_too_deep_is_text_in_its_record_alone(depth: int, inmost: str, signs: str):
    """The other records of the page are as they were, and nothing of this one is lost."""
    opening = "[" if signs == "[]" else '{"a":'
    deep = f'{opening * depth}"{inmost}"{signs[1] * depth}'
    body = f'{{"items": [{{"id": "1"}}, {{"id": "2", "x": {deep}}}, {{"id": "3", "y": [1]}}]}}'
    first, second, third = read_json(body.encode())["items"]
    assert (first, third) == ({"id": "1"}, {"id": "3", "y": [1]})
    kept = second["x"]
    while not isinstance(kept, str):
        kept = kept[0] if isinstance(kept, list) else kept["a"]
    assert isinstance(kept, KeptAsText)
    assert f'"{inmost}"' in kept
