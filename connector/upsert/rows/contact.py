"""Emails, phones and names: what is one, and which of two spellings are the same.

The libraries made for it decide; a regular expression answers for the plain spellings that make
up nearly all of a file, only where it provably agrees with them (there is a test that tries).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import phonenumbers
from email_validator import EmailNotValidError, validate_email
from phonenumbers import NumberParseException, PhoneMetadata, PhoneNumberFormat, ValidationResult

_PLAIN_EMAIL = re.compile(
    r"[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*@"
    r"(?:[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*\.)+[A-Za-z]{2,20}",
    re.ASCII,
)
_RESERVED_DOMAINS = frozenset({"invalid", "local", "localhost", "test", "onion", "arpa"})
_PLAIN_US_PHONE = re.compile(
    r"(?:\+?1[ .-]?)?(?:\(([2-9]\d{2})\) ?|([2-9]\d{2})[ .-]?)(\d{3})[ .-]?(\d{4})", re.ASCII
)
_E164 = re.compile(r"\+[1-9]\d{6,14}", re.ASCII)
# 000-000-0000, 123-456-7890, 999-999-9999: forms want a number, and many people give these. (An
# area code never begins with 0 or 1, and 888 is the only one of three equal digits.)
_PLACEHOLDER = re.compile(r"\+1(?:[01]\d{9}|([2-79])\1{9})|\+\d{1,3}0{7,}", re.ASCII)
_PHONE_SHAPE = re.compile(r"[+\d\s().\-‐-—−/·]++(?:(?:x|ext\.?|extension|#)\s*+\d{1,7})?", re.I)
_DECIMAL = re.compile(r"\+?(\d+)[.,](\d+)")
_SHORTENED_NUMBER = re.compile(r"\d(?:[.,]\d+)?E\+\d+", re.I)
_MAIL_LINK, _PHONE_LINK = "mailto:", "tel:"  # what a copied link begins with
_LINE_DIGITS = 4  # of the last group of a phone such as 415555.0100
_NANP = frozenset({"US", "CA"})
_TOO = {ValidationResult.TOO_SHORT: "too short", ValidationResult.TOO_LONG: "too long"}
_NAME = r"[^\W\d_]+(?:['’\-‐‑][^\W\d_]+)*"  # letters, as in Anna-Lena or O'Neil
_TWO_NAMES = re.compile(rf"({_NAME})\s+({_NAME})")
_LAST_FIRST = re.compile(rf"({_NAME}),\s*({_NAME}(?:\s+{_NAME})*)")
# what stands before a name, or begins a last name of two words; what stands after one
_BEFORE_NAMES = frozenset({
    "mr", "mrs", "ms", "mx", "miss", "dr", "prof", "sir", "madam", "herr", "frau", "mme", "mlle",
    "sr", "sra", "the", "von", "van", "de", "der", "den", "del", "della", "di", "da", "dos", "la",
    "le", "bin", "ibn", "el",
})  # fmt: skip
_AFTER_NAMES = frozenset({
    "jr", "sr", "ii", "iii", "iv", "phd", "md", "mba", "cpa", "esq", "rn", "inc", "llc", "ltd",
    "gmbh", "ag", "corp", "company", "team", "group", "office",
})  # fmt: skip
# Signs that can't be seen, which people don't type: soft hyphen, zero-width space and joiners,
# marks of direction, byte order mark. Word's hyphens look like, and stand for, the plain one.
_UNSEEN = (
    *(0xAD, 0x61C, 0x180E, 0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202F)),
    *(*range(0x2060, 0x2065), *range(0x2066, 0x206A)),
)
_FULL_WIDTH = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_UNDONE = dict.fromkeys(_UNSEEN) | {0x2010: "-", 0x2011: "-"} | _FULL_WIDTH
# signs that can't be seen and that no name needs; some scripts need their joiners
_UNSEEN_IN_NAMES = {code: None for code in _UNSEEN if code not in (0x200C, 0x200D)} | {0xA0: " "}


def plain_contact(text: str) -> str:
    """`text`, an email or a phone, without the signs that Word, a browser or an address book has
    slipped in and that can be undone with certainty."""
    return text if text.isascii() else text.translate(_UNDONE).strip()


def plain_name(text: str) -> str:
    """`text`, a person's name, without signs that can't be seen; other spaces are plain ones."""
    return text if text.isascii() else text.translate(_UNSEEN_IN_NAMES).strip()


def plain_email(address: str) -> str:
    """`address` as it was typed: see `plain_contact`; also without apostrophes around it.

    Raises:
        ValueError: it contains a character that no address has, such as a curly quote.
    """
    plain = plain_contact(address)
    if ":" in plain and plain[: len(_MAIL_LINK)].lower() == _MAIL_LINK:
        plain = plain[len(_MAIL_LINK) :]
    if plain.startswith("'"):
        if not plain.endswith("'"):
            raise ValueError("it begins with an apostrophe")
        plain = plain[1:-1].strip()
    if not plain.isascii():
        for sign in plain:
            if sign > "\x7f" and unicodedata.category(sign)[0] not in "LMN":
                name = unicodedata.name(sign, f"U+{ord(sign):04X}")
                raise ValueError(f"it contains a character that no address has: {name}")
    return plain


def email_identity(address: str) -> str:
    """The spelling that all spellings of one mailbox share, as far as recruiting goes.

    Raises:
        ValueError: `address` isn't an email address; the message says why.
    """
    if len(address) <= 64 and _PLAIN_EMAIL.fullmatch(address):
        return address.lower()
    return _library_email(address).lower()


def _library_email(address: str) -> str:
    """`address` as the library writes it, which refuses domains where no mail can arrive: whether
    it does isn't a matter of syntax."""
    local, _, domain = address.rpartition("@")
    name, period, top = domain.rpartition(".")
    if not period and local:
        raise ValueError("the part after @ has no period")
    is_reserved = top.lower() in _RESERVED_DOMAINS
    checked = f"{local}@{name}.com" if is_reserved else address
    try:
        found: str = validate_email(checked, check_deliverability=False).normalized
    except EmailNotValidError as error:
        raise ValueError(str(error).rstrip(".")) from None
    return f"{found.removesuffix('.com')}.{top}" if is_reserved else found


def e164(text: str, region: str) -> tuple[str, str | None]:
    """(`text` as +<country code><number>, what was left out).

    region: ISO 3166 country of numbers written without a country code.

    Raises:
        ValueError: `text` can't be a phone number; the message says why.
    """
    if region in _NANP and (match := _PLAIN_US_PHONE.fullmatch(text)):
        return _unless_placeholder(f"+1{match[1] or match[2]}{match[3]}{match[4]}"), None
    if _E164.fullmatch(text) and _is_plain_e164(text):
        return _unless_placeholder(text), None
    return _library_phone(text, region)


def _unless_placeholder(number: str) -> str:
    if _PLACEHOLDER.fullmatch(number):
        raise ValueError("it is a placeholder, not a real number")
    return number


def _library_phone(text: str, region: str) -> tuple[str, str | None]:
    if _SHORTENED_NUMBER.fullmatch(text):
        raise ValueError("a spreadsheet has shortened the number; format the column as text")
    text = plain_contact(text)
    if text[: len(_PHONE_LINK)].lower() == _PHONE_LINK:
        text = text[len(_PHONE_LINK) :].strip()
    if (match := _DECIMAL.fullmatch(text)) and len(match[2]) != _LINE_DIGITS:
        if not match[2].strip("0"):
            return _phone_from_float(text[: match.end(1)], region), None
        if len(match[2]) < _LINE_DIGITS - 1:
            raise ValueError("it is a decimal number; format the column as text")
    if not _PHONE_SHAPE.fullmatch(text):
        raise ValueError("it contains characters that no phone number has")
    if text.isdigit() and text[0] != "0":
        _check_country_code(text, region)
    try:
        number = phonenumbers.parse(text, region)
    except NumberParseException as error:
        raise ValueError(str(error).split(") ", 1)[-1].rstrip(".")) from None
    possible = phonenumbers.is_possible_number_with_reason(number)
    if possible != ValidationResult.IS_POSSIBLE:
        country = phonenumbers.region_code_for_number(number) or region
        raise ValueError(f"it is {_TOO.get(possible, 'not complete')} for {country}")
    length = len(number.extension or "")  # it isn't quoted: warnings are kept where rows aren't
    digits = "digit" if length == 1 else "digits"
    lost = f"the extension ({length} {digits}) is left out" if length else None
    return _unless_placeholder(phonenumbers.format_number(number, PhoneNumberFormat.E164)), lost


def _phone_from_float(digits: str, region: str) -> str:
    """The phone that a program has kept as the number `digits`.0, where it can only be that one."""
    number = _valid_number(digits, region)
    if number is None:
        raise ValueError(
            f"it is a decimal number, not a phone number of {region}; format it as text"
        )
    _check_country_code(digits, region)
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)


def _check_country_code(digits: str, region: str) -> None:
    """Raises ValueError where `digits` may begin with the region's country code, whose `+` a
    spreadsheet has dropped, or may be a number inside the region: two people's phones."""
    number = _valid_number(digits, region)
    abroad = _valid_number(f"+{digits.lstrip('+')}", region)
    if number is None or abroad is None or abroad == number:
        return
    if abroad.country_code == number.country_code:
        raise ValueError("it may begin with a country code or not; write it with + and the code")


def _valid_number(text: str, region: str) -> phonenumbers.PhoneNumber | None:
    try:
        number = phonenumbers.parse(text, region)
    except NumberParseException:
        return None
    return number if phonenumbers.is_valid_number(number) else None


def _is_plain_e164(text: str) -> bool:
    """Whether the library would leave `text` as it is: no prefix to strip, a possible length."""
    for digits in (1, 2, 3):
        plan = _numbering_plan(text[1 : 1 + digits])
        if plan is not None:
            national = text[1 + digits :]
            lengths, prefix = plan
            return len(national) in lengths and national[0] != "0" and not prefix.match(national)
    return False


@lru_cache(maxsize=1024)
def _numbering_plan(country_code: str) -> tuple[frozenset[int], re.Pattern[str]] | None:
    """(possible lengths of national numbers, prefixes that would be stripped) of a code."""
    region = phonenumbers.region_code_for_country_code(int(country_code))
    metadata = PhoneMetadata.metadata_for_region_or_calling_code(int(country_code), region)
    if metadata is None or metadata.general_desc is None:
        return None
    prefix = metadata.national_prefix_for_parsing or r"(?!)"
    return frozenset(metadata.general_desc.possible_length), re.compile(prefix)


# --- names ----------------------------------------------------------------------------------


def split_name(name: str) -> tuple[str, str]:
    """(first name, last name) of `Ann Lee` or `Lee, Ann`.

    Raises:
        ValueError: it isn't certain which part is which.
    """
    if match := _TWO_NAMES.fullmatch(name):
        first, last = match.groups()
    elif match := _LAST_FIRST.fullmatch(name):
        last, first = match.groups()
    else:
        first, last = "the", ""
    words = [word.casefold() for word in (*first.split(), last)]
    if words[0] in _BEFORE_NAMES or not _AFTER_NAMES.isdisjoint(words):
        raise ValueError(
            "can't be split into first and last name with certainty. Write it as `Lee, Ann`, or "
            "give the two a column each"
        )
    return first, last
