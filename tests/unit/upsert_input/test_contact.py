"""Emails and phones: the fast answers are the libraries' answers."""

from __future__ import annotations

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.upsert.rows import contact
from connector.upsert.rows.contact import e164, email_identity

_word = st.text("abzABZ019_+-", min_size=1, max_size=9)
_label = st.text("abzABZ019-", min_size=1, max_size=9)
_top = st.sampled_from(["com", "io", "c", "invalid", "museum", "x1", "co-", "test"])
_addresses = st.builds(
    "{}@{}.{}".format,
    st.lists(_word, min_size=1, max_size=4).map(".".join),
    st.lists(_label, min_size=1, max_size=4).map(".".join),
    _top,
)


@given(_addresses)
def test_a_plain_email_is_valid_for_the_library_too(address: str) -> None:
    """Whatever the expression accepts, the library accepts, and calls it the same but for case."""
    if contact._PLAIN_EMAIL.fullmatch(address):
        assert email_identity(address) == contact._library_email(address).lower()


@pytest.mark.parametrize(
    "address",
    [
        *("", "x", "a@b", "@b.co", "a@", "a b@c.co", "a@b..co", "a@b.co, c@d.co", "A <a@b.co>"),
        *("a@-b.co", ".a@b.co", "a..b@c.co", "a@b.co\x00", "a@[127.0.0.1]", '"a b"@c.co'),
    ],
)
def test_an_invalid_email_is_refused(address: str) -> None:
    """Each is refused with a reason, by the library or by its missing period."""
    with pytest.raises(ValueError, match=r"\w"):
        email_identity(address)


def test_an_address_of_a_reserved_domain_is_an_address() -> None:
    """Whether mail arrives isn't a matter of syntax."""
    assert email_identity("Ann@Team.test") == "ann@team.test"
    assert email_identity("ann@x.invalid") == "ann@x.invalid"


def test_spellings_of_one_mailbox_are_one_identity() -> None:
    """Case, and the two ways to write an accented letter, make no difference."""
    assert email_identity("ANN@Example.COM") == email_identity("ann@example.com")
    assert email_identity("jose\u0301@example.com") == email_identity("josé@example.com")


_digits = st.integers(7, 15).flatmap(lambda n: st.text("0123456789", min_size=n, max_size=n))
_us_like = st.builds(
    "{}{}{}{}{}{}{}".format,
    st.sampled_from(["", "+1", "1", "+1 ", "1-", "1."]),
    st.sampled_from(["{}", "({})", "({}) "]).flatmap(
        lambda form: st.integers(0, 999).map(lambda n: form.format(f"{n:03}"))
    ),
    st.sampled_from(["", " ", "-", "."]),
    st.integers(0, 999).map(lambda n: f"{n:03}"),
    st.sampled_from(["", " ", "-", "."]),
    st.integers(0, 9999).map(lambda n: f"{n:04}"),
    st.just(""),
)
_code = st.sampled_from(sorted(phonenumbers.COUNTRY_CODE_TO_REGION_CODE))
_international = st.builds("+{}{}".format, _code, _digits)


@given(
    st.one_of(_us_like, _international, _digits.map("+{}".format), _digits),
    st.sampled_from(["US", "CA", "GB", "DE", "BS", "MX"]),
)
def test_a_plain_phone_equals_the_librarys_result(text: str, region: str) -> None:
    """For every shape that is answered fast, and its neighbors: same number or same refusal."""

    def answer(of: object) -> object:
        try:
            return of(text, region)  # type: ignore[operator]
        except ValueError:
            return "refused"

    assert answer(e164) == answer(contact._library_phone)


@pytest.mark.parametrize(
    ("text", "region", "expected"),
    [
        ("(415) 555-0100", "US", "+14155550100"),
        ("07911 123456", "GB", "+447911123456"),
        ("+44 (0) 7911 123456", "US", "+447911123456"),
        ("030 901820", "DE", "+4930901820"),
        ("４１５５５５０１００", "US", "+14155550100"),
        ("00 44 7911 123456", "DE", "+447911123456"),
    ],
)
def test_a_phone_is_read_as_its_region_writes_it(text: str, region: str, expected: str) -> None:
    """Punctuation, national and international prefixes, digits of other scripts."""
    assert e164(text, region) == (expected, None)


def test_an_extension_is_left_out_with_a_warning() -> None:
    """E.164 knows no extensions; the person hears of it, by its length."""
    number, lost = e164("415-555-0100 ext. 12", "US")
    assert number == "+14155550100"
    assert lost == "the extension (2 digits) is left out"


@pytest.mark.parametrize(
    "text",
    [
        *("4.15555E+09", "555-0100", "n/a", "call 415-555-0100", "415-555-0100 / 415-555-0101"),
        *("+", "1-800-FLOWERS", "415555010012345678", "+999123456789"),
    ],
)
def test_an_invalid_phone_is_refused(text: str) -> None:
    """Too short, too long, words, two numbers, or what a spreadsheet has shortened."""
    with pytest.raises(ValueError, match=r"\w"):
        e164(text, "US")
