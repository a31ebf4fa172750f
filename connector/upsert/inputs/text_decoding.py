"""Which encoding a text file has, decided on all of its bytes before the first row is read.

A sample would misjudge the file whose first accent comes late. Certain are: a byte order mark;
UTF-16 by its zero bytes; UTF-8 if all of the file is valid, or if most of its accents are (then
the rows with the others are rejected, where guessing again would garble every name). Anything else
is a guess, and called one. charset-normalizer names code pages under which the bytes aren't noise;
short lists of names are too little for it to choose by, so its candidates, and the pages that
Western spreadsheets write, are compared by how the words read: in the letters of one language, in
the case that words have.
"""

from __future__ import annotations

import codecs
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from charset_normalizer import from_bytes

from connector.errors import InputError
from connector.upsert.inputs.files import LocalFile

MAX_LINE_BYTES = 32 * 1024 * 1024
_CHUNK_BYTES, _SAMPLE_BYTES = 1024 * 1024, 64 * 1024
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with BOM"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16 LE"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16 BE"),
)
_MULTIBYTE_UTF8 = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
_HIGH_BYTE = re.compile(rb"[\x80-\xff]")
_ESCAPED_JAPANESE = re.compile(rb"\x1b\$[@B]")
_UNDECODABLE = "hiringcenter.undecodable"


def _undecodable_as_surrogates(error: UnicodeError) -> tuple[str, int]:
    """Each undecodable byte becomes the lone surrogate U+DC00 + byte, which no text contains."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    bad = error.object[error.start : error.end]
    return "".join(chr(0xDC00 + byte) for byte in bad), error.end


codecs.register_error(_UNDECODABLE, _undecodable_as_surrogates)


@dataclass(frozen=True)
class Guess:
    """codec: the likeliest. readings: lines that show how it and its rivals read a few cells, for a
    person to choose from; they quote the input.

    decides_words: whether letters depend on it, and not just signs that stand between words.
    """

    codec: str
    readings: tuple[str, ...]
    decides_words: bool

    @property
    def notes(self) -> list[str]:
        """What people should know about it."""
        if not self.decides_words:
            return ["the encoding is guessed; only punctuation depends on it (--encoding)"]
        note = "the encoding is guessed, and words depend on it. A push needs --encoding NAME:"
        return [note, *self.readings]


@dataclass(frozen=True)
class DecodedFile:
    """A file as text. codec: Python's name of its encoding. label: for people. damaged: some bytes
    can't be decoded. guess: how the encoding was guessed; None where it is certain."""

    file: LocalFile
    codec: str
    label: str
    damaged: bool
    guess: Guess | None = None

    def open(self) -> io.TextIOWrapper:
        """The text from its start, with line ends left as they are."""
        return io.TextIOWrapper(self.file.open(), self.codec, errors=_UNDECODABLE, newline="")


def undecodable_byte(text: str) -> int | None:
    """The first byte that couldn't be decoded in `text`."""
    return next((ord(char) - 0xDC00 for char in text if "\udc00" <= char <= "\udcff"), None)


def decode(file: LocalFile, named: str | None = None) -> DecodedFile:
    """`file` as text, in the encoding called `named`, else in the one that all its bytes show.

    Raises:
        InputError: it can't be text, or there is no such encoding.
    """
    with file.open() as stream:
        head = stream.read(_SAMPLE_BYTES)
    if named:
        return _in_named_encoding(file, named, head)
    marks = ((codec, label) for mark, codec, label in _BYTE_ORDER_MARKS if head.startswith(mark))
    if certain := next(marks, None) or _utf16_by_zeros(head):
        codec, label = certain
        return DecodedFile(file, codec, label, not _decodes(file, codec))
    if _ESCAPED_JAPANESE.search(head) and _decodes(file, "iso2022_jp"):
        guess = Guess("iso2022_jp", _readings(head, ["iso2022_jp"]), decides_words=True)
        return DecodedFile(file, "iso2022_jp", "ISO2022_JP (guessed)", damaged=False, guess=guess)
    if _decodes(file, "utf-8"):
        return DecodedFile(file, "utf-8", "UTF-8", damaged=False)
    return _in_eight_bits(file)


def _in_named_encoding(file: LocalFile, named: str, head: bytes) -> DecodedFile:
    """A UTF-8 mark at the beginning is certain, and wins: a rejects file has one, pushed with the
    options of the file that it came from."""
    try:
        b"a".decode(named, "replace")  # Python also has codecs that aren't of text
        name = codecs.lookup(named).name
    except (LookupError, ValueError):
        raise InputError(
            location=file.name,
            reason=f"unknown encoding {named!r}. --encoding takes utf-8, utf-16, cp1252 …",
        ) from None
    codec = "utf-8-sig" if name == "utf-8" else name  # reads files with and without a mark
    is_marked = head.startswith(codecs.BOM_UTF8)
    if is_marked and codec != "utf-8-sig" and _decodes(file, "utf-8-sig"):
        label = f"UTF-8 with BOM, not {name.upper()}"
        return DecodedFile(file, "utf-8-sig", label, damaged=False)
    try:
        damaged = not _decodes(file, codec)
    except UnicodeError:  # of a codec that needs a mark at the beginning, and finds none
        raise InputError(
            location=file.name,
            reason=f"isn't {name.upper()}, or lacks the byte order mark at its beginning. "
            f"--encoding {name}-le or {name}-be is for a file without one",
        ) from None
    return DecodedFile(file, codec, name.upper(), damaged)


def _utf16_by_zeros(head: bytes) -> tuple[str, str] | None:
    """UTF-16 without a mark: line ends, delimiters and ASCII have a zero in the same half, which
    are few where the words are in another alphabet."""
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if odd > 10 * even and _reads_as(head, "utf-16-le"):
        return "utf-16-le", "UTF-16 LE without BOM"
    if even > 10 * odd and _reads_as(head, "utf-16-be"):
        return "utf-16-be", "UTF-16 BE without BOM"
    return None


def _reads_as(head: bytes, codec: str) -> bool:
    """Whether `head` is lines of text with delimiters in this kind of UTF-16."""
    text = head[: len(head) // 2 * 2].decode(codec, "replace")
    ascii_count = sum(character < "\x80" for character in text)
    share = 20 if "\n" in text or "\r" in text else 5
    return "\0" not in text and ascii_count > max(1, len(text) // share)


def _decodes(file: LocalFile, codec: str) -> bool:
    """Whether every byte decodes. Raises InputError for a line too long to be one."""
    decoder = codecs.getincrementaldecoder(codec)()
    is_valid, since_line_end = True, 0
    with file.open() as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            last_end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
            since_line_end = len(chunk) - last_end if last_end >= 0 else since_line_end + len(chunk)
            if since_line_end > MAX_LINE_BYTES:
                limit = f"{MAX_LINE_BYTES >> 20} MB"
                reason = f"no line end within {limit}. Is this a text file?"
                raise InputError(location=file.name, reason=reason)
            is_valid = is_valid and _takes(decoder, chunk)
    return is_valid and _takes(decoder, b"", final=True)


def _takes(decoder: codecs.IncrementalDecoder, chunk: bytes, *, final: bool = False) -> bool:
    try:
        decoder.decode(chunk, final)
    except UnicodeDecodeError:
        return False
    return True


def _in_eight_bits(file: LocalFile) -> DecodedFile:
    utf8_count, other_count, between_words, sample = 0, 0, True, bytearray()
    with file.open() as stream:
        for line in _lines(stream):
            if line.isascii():
                continue
            rest, found = _MULTIBYTE_UTF8.subn(b"", line)
            utf8_count += found
            other_count += len(_HIGH_BYTE.findall(rest))
            if len(sample) < _SAMPLE_BYTES:
                sample += line[: _SAMPLE_BYTES // 4]
            between_words = between_words and is_between_words(line.decode("cp1252", _UNDECODABLE))
    if utf8_count > other_count:
        return DecodedFile(file, "utf-8", "UTF-8 with undecodable bytes", damaged=True)
    guess = _guess(bytes(sample), decides_words=not between_words)
    codec = guess.codec if guess.decides_words else "cp1252"
    label = f"{codec.upper()} (guessed)"
    return DecodedFile(file, codec, label, not _decodes(file, codec), guess)


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of an 8-bit text, however they end; those of old Macs end in a carriage return."""
    rest = b""
    while chunk := stream.read(_CHUNK_BYTES):
        *whole, rest = (rest + chunk).splitlines(keepends=True)
        yield from whole
    yield rest


# --- do words depend on the guess? ----------------------------------------------------------

_OPENING, _CLOSING = "‘“„‚«‹¿¡", "’”“‘»›?!"
_ENDING = "©®™"  # stand right behind a name
# what else is typed between words; most others are letters of Macs and DOS: « is ½ there, … is à
_BEHIND, _NEXT_TO_DIGITS, _FREE = "®™…²³°", "€£¥¢", "©–—•°½¼¾§±×÷\xa0"
_PAIRED = {"«": "»", "»": "«", "‹": "›", "›": "‹"}


def is_between_words(text: str) -> bool:
    """Whether the signs of `text` beyond ASCII all stand between words, as quotes, dashes and ©
    do. What else may be a letter of another code page."""
    return all(
        _is_sign(match[0], text[: match.start()], text[match.end() :])
        for match in re.finditer(r"[^\x00-\x7f]", text)
    )


def _is_sign(sign: str, before: str, behind: str) -> bool:
    """Whether `sign` stands where people type it, and touches no word that it could be part of."""
    closes = sign in _CLOSING and any(opening in before for opening in _OPENING)
    opens = sign in _OPENING and any(closing in behind for closing in _CLOSING)
    if (
        unicodedata.category(sign)[0] in "LMC"
        or (behind[:1].isalpha() and not opens)
        or (before[-1:].isalpha() and sign not in _ENDING and not closes)
    ):
        return False
    if sign in _PAIRED:
        return _PAIRED[sign] in before + behind
    if sign in _OPENING:
        return opens and not behind[:1].isspace()
    if sign in _CLOSING:
        return closes
    if sign in _NEXT_TO_DIGITS:
        return before.rstrip()[-1:].isdigit() or behind.lstrip()[:1].isdigit()
    return sign in _FREE or (sign in _BEHIND and bool(before[-1:].strip()))


# --- which code page reads best -------------------------------------------------------------

# code page → how unlikely it is before any word is looked at
_WESTERN = {"cp1252": 0.0, "mac_roman": 0.3, "cp850": 0.3, "cp437": 0.35}
_OTHERS = {
    **{"cp1250": 0.25, "cp1254": 0.4, "cp1257": 0.45, "cp852": 0.45, "mac_latin2": 0.8},
    **{"iso8859_2": 0.6, "cp1251": 0.3, "koi8_r": 0.4, "cp866": 0.5, "mac_cyrillic": 0.6},
    **{"cp1253": 0.4, "cp1255": 0.5, "cp1256": 0.6, "cp874": 0.8, "iso8859_5": 0.8},
    **{"cp932": 0.3, "gb18030": 0.35, "big5": 0.4, "cp949": 0.4, "euc_jp": 0.6},
}
_PRIORS = _WESTERN | _OTHERS
# first bytes of the characters that are common, and so likely in a name
_COMMON_LEADS = {
    "cp932": (range(0x81, 0x84), range(0x88, 0x99)),
    "euc_jp": (range(0xA4, 0xA6), range(0xB0, 0xD0)),
    "gb18030": (range(0xB0, 0xD8),),
    "big5": (range(0xA4, 0xC7),),
    "cp949": (range(0xB0, 0xC9),),
}
_ALPHABETS = tuple(
    frozenset(letters + letters.upper())
    for letters in (
        *("àâæçéèêëîïôœùûüÿ", "áéíñóúü", "áâãàçéêíóôõú", "äöüßé", "àèéìòù", "åäöé", "æøåéö"),
        *("ąćęłńóśźż", "áäčďéěíĺľňóôŕřšťúůýž", "áéíóöőúüű", "ăâîșțşţ", "čćđšž", "áðéíóúýþæö"),
        *("çğıöşüâîİ", "āčēģīķļņšūž", "ąčęėįšųūž", "äõöüšž", "àçéèíïóòúü·"),
    )
)
_VOWELS = frozenset("аеёиоуыэюяіїє" + "αεηιουωάέήίόύώ")
_TYPED = frozenset(_OPENING + _CLOSING + "–—…©®™€·")
_FOREIGN_WORD = re.compile(r"[^\W\d_]*(?:[^\x00-\x7f]+[^\W\d_]*)+")
_CELL_ENDS = re.compile(r'[,;|\t\r\n"]+')
_SHOWN_CELLS, _SHOWN_CHARS, _SHOWN_CODECS = 3, 40, 4
_MOST_WORDS = 400


def _guess(sample: bytes, *, decides_words: bool) -> Guess:
    """The likeliest code page of `sample`: lines with bytes beyond ASCII, in none of Unicode's
    encodings."""
    matches = from_bytes(sample, cp_isolation=[*_OTHERS])
    candidates = dict.fromkeys([*_WESTERN, *(match.encoding for match in matches)])
    costs = {codec: _cost(sample, codec) for codec in candidates if codec in _PRIORS}
    ranked = sorted(costs, key=lambda codec: costs[codec])
    return Guess(ranked[0], _readings(sample, ranked), decides_words)


def _cost(sample: bytes, codec: str) -> float:
    """How badly `sample` reads as `codec`; a word's worst is about 4."""
    words = _FOREIGN_WORD.findall(sample.decode(codec, "replace"))[:_MOST_WORDS]
    costs = [_word_cost(word, codec) for word in words]
    return sum(costs) / max(1, len(costs)) + _PRIORS[codec] * 0.5


def _word_cost(word: str, codec: str) -> float:
    foreign = [letter for letter in word if not letter.isascii()]
    letters = [letter for letter in word if letter.isalpha()]
    cost = sum(map(_sign_cost, foreign))
    if any(one.islower() and two.isupper() for one, two in pairwise(letters)):
        cost += 2.0
    if re.search(r"^[^\W\d_]{2}", word) and word[0] == foreign[0] and word[0].islower():
        cost += 0.3
    if word[:2].isalpha() and word[:2].isupper() and word[-1].islower():
        cost += 1.0
    scripts = set(map(_script, letters))
    if len(scripts) > 1:
        return cost + 4.0
    if scripts == {"LATIN"}:
        accented = set(filter(str.isalpha, foreign))
        cost += 2.0 if len(foreign) == len(word) > 1 else 0.0
        return cost + min(len(accented - alphabet) for alphabet in _ALPHABETS)
    if scripts & {"CYRILLIC", "GREEK"} and len(letters) > 2:
        vowels = sum(letter.lower() in _VOWELS for letter in letters) / len(letters)
        cost += 1.5 * abs(vowels - 0.45)
    if codec in _COMMON_LEADS:
        leads = [letter.encode(codec, "replace")[0] for letter in foreign]
        rare = sum(not any(lead in common for common in _COMMON_LEADS[codec]) for lead in leads)
        cost += rare / max(1, len(foreign))
    return cost


def _sign_cost(letter: str) -> float:
    if letter == "\ufffd" or unicodedata.category(letter)[0] == "C":
        return 4.0
    if letter.isalpha():
        return 1.0 if "\uff61" <= letter <= "\uff9f" else 0.0  # halfwidth katakana
    return 0.3 if letter in _TYPED else 2.0


def _script(letter: str) -> str:
    if letter.isascii():
        return "LATIN"
    script = unicodedata.name(letter, "?").partition(" ")[0]
    return "CJK" if script in ("HIRAGANA", "KATAKANA", "HANGUL") else script


def _readings(sample: bytes, ranked: Sequence[str]) -> tuple[str, ...]:
    """How the best ranked codecs that read something differently read the first cells."""
    found: dict[tuple[str, ...], str] = {}
    for codec in ranked:
        cells = _CELL_ENDS.split(sample.decode(codec, "replace"))
        foreign = (repr(cell.strip()[:_SHOWN_CHARS]) for cell in cells if not cell.isascii())
        found.setdefault(tuple(dict.fromkeys(foreign))[:_SHOWN_CELLS], codec)
        if len(found) == _SHOWN_CODECS:
            break
    return tuple(f"{codec:>12} reads {', '.join(cells)}" for cells, codec in found.items())
