"""Which encoding a text file has, decided on all of its bytes before the first row is read.

A sample would misjudge the file whose first accent comes late. Certain are: a byte order mark;
UTF-16 by its zero bytes; UTF-8 if all of the file is valid, or if most of its accents are (then
the rows with the others are rejected, where guessing again would garble every name). Anything
else is a guess, and called one.
"""

from __future__ import annotations

import codecs
import io
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from charset_normalizer import from_bytes

from connector.errors import InputError

MAX_LINE_BYTES = 32 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_SAMPLE_BYTES = 64 * 1024
_MARKS = (
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
UNDECODABLE = "hiringcenter.undecodable"

OpenBytes = Callable[[], BinaryIO]


def _mark_undecodable(error: UnicodeError) -> tuple[str, int]:
    """Each undecodable byte becomes the lone surrogate U+DC00 + byte, which no text contains."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    bad = error.object[error.start : error.end]
    return "".join(chr(0xDC00 + byte) for byte in bad), error.end


codecs.register_error(UNDECODABLE, _mark_undecodable)


@dataclass(frozen=True)
class Encoding:
    """codec: Python's name. label: for people. damaged: some bytes can't be decoded by it.
    guess: how it was guessed; None where it is certain."""

    codec: str
    label: str
    damaged: bool
    guess: Guess | None = None

    def text(self, stream: BinaryIO) -> io.TextIOWrapper:
        """`stream` as text whose line ends are left as they are."""
        return io.TextIOWrapper(stream, self.codec, errors=UNDECODABLE, newline="")


def detect_encoding(open_bytes: OpenBytes, *, place: str) -> Encoding:
    """The encoding of all the bytes. Raises InputError for what can't be text."""
    with open_bytes() as stream:
        head = stream.read(_SAMPLE_BYTES)
    for mark, codec, label in _MARKS:
        if head.startswith(mark):
            return Encoding(codec, label, not _decodes(open_bytes, codec, place))
    utf16 = _utf16_by_zeros(head)
    if utf16:
        codec, label = utf16
        return Encoding(codec, label, not _decodes(open_bytes, codec, place))
    if _ESCAPED_JAPANESE.search(head) and _decodes(open_bytes, "iso2022_jp", place):
        guess = guess_of("iso2022_jp", head)
        return Encoding("iso2022_jp", "ISO2022_JP (guessed)", damaged=False, guess=guess)
    if _decodes(open_bytes, "utf-8", place):
        return Encoding("utf-8", "UTF-8", damaged=False)
    return _eight_bit(open_bytes, place)


def named_encoding(open_bytes: OpenBytes, codec: str, *, place: str) -> Encoding:
    """The encoding that somebody asked for. Raises InputError where it isn't known. A mark of
    UTF-8 at the beginning is certain, and wins: a rejects file has one, pushed with the options
    of the file that it came from."""
    try:
        b"a".decode(codec, "replace")  # Python also has codecs that aren't of text
        name = codecs.lookup(codec).name
    except (LookupError, ValueError):
        raise InputError(
            place=place,
            reason=f"unknown encoding {codec!r}. --encoding takes utf-8, utf-16, cp1252 …",
        ) from None
    codec = "utf-8-sig" if name == "utf-8" else name  # reads files with and without a mark
    with open_bytes() as stream:
        is_marked = stream.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
    if is_marked and codec != "utf-8-sig" and _decodes(open_bytes, "utf-8-sig", place):
        return Encoding("utf-8-sig", f"UTF-8 with BOM, not {name.upper()}", damaged=False)
    return Encoding(codec, name.upper(), not _decodes(open_bytes, codec, place))


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


def _chunks(open_bytes: OpenBytes) -> Iterator[bytes]:
    with open_bytes() as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


def _decodes(open_bytes: OpenBytes, codec: str, place: str) -> bool:
    """Whether every byte decodes. Raises InputError for a line too long to be one."""
    decoder = codecs.getincrementaldecoder(codec)()
    valid, since_line_end = True, 0
    for chunk in _chunks(open_bytes):
        ends = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
        since_line_end = since_line_end + len(chunk) if ends < 0 else len(chunk) - ends
        if since_line_end > MAX_LINE_BYTES:
            raise InputError(
                place=place,
                reason=f"no line end within {MAX_LINE_BYTES >> 20} MB. Is this a text file?",
            )
        valid = valid and _step(decoder, chunk, final=False)
    return valid and _step(decoder, b"", final=True)


def _step(decoder: codecs.IncrementalDecoder, chunk: bytes, *, final: bool) -> bool:
    try:
        decoder.decode(chunk, final)
    except UnicodeDecodeError:
        return False
    return True


def _eight_bit(open_bytes: OpenBytes, place: str) -> Encoding:
    utf8_count, other_count, between_words, sample = 0, 0, True, bytearray()
    with open_bytes() as stream:
        for line in _lines(stream):
            if line.isascii():
                continue
            rest, found = _MULTIBYTE_UTF8.subn(b"", line)
            utf8_count += found
            other_count += len(_HIGH_BYTE.findall(rest))
            if len(sample) < _SAMPLE_BYTES:
                sample += line[: _SAMPLE_BYTES // 4]
            between_words = between_words and is_between_words(line.decode("cp1252", UNDECODABLE))
    if utf8_count > other_count:
        return Encoding("utf-8", "UTF-8 with undecodable bytes", damaged=True)
    guess = guess_encoding(bytes(sample), decides_words=not between_words)
    codec = guess.codec if guess.decides_words else "cp1252"
    return Encoding(
        codec, f"{codec.upper()} (guessed)", not _decodes(open_bytes, codec, place), guess
    )


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of an 8-bit text, however they end; those of old Macs end in a carriage return."""
    rest = b""
    while chunk := stream.read(_CHUNK_BYTES):
        *whole, rest = (rest + chunk).splitlines(keepends=True)
        yield from whole
    yield rest


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
_WORD = re.compile(r"[^\W\d_]*(?:[^\x00-\x7f]+[^\W\d_]*)+")
_CELL_ENDS = re.compile(r'[,;|\t\r\n"]+')
_OPENING, _CLOSING = "‘“„‚«‹¿¡", "’”“‘»›?!"
_TYPED = frozenset(_OPENING + _CLOSING + "–—…©®™€·")
_ENDING = "©®™"  # stand right behind a name
# what else is typed between words; most others are letters of Macs and DOS: « is ½ there, … is à
_BEHIND, _BESIDE_DIGITS, _FREE = "®™…²³°", "€£¥¢", "©–—•°½¼¾§±×÷\xa0"
_PAIRED = {"«": "»", "»": "«", "‹": "›", "›": "‹"}
_SHOWN_CELLS, _SHOWN_CHARS, _SHOWN_CODECS = 3, 40, 4
_MOST_WORDS = 400


@dataclass(frozen=True)
class Guess:
    """codec: the likeliest. readings: it and its rivals, each with a few cells as it reads them.

    decides_words: whether letters depend on it, and not just signs that stand between words.
    """

    codec: str
    readings: tuple[tuple[str, tuple[str, ...]], ...]
    decides_words: bool

    def lines(self) -> list[str]:
        """The readings for a person to choose from; they quote the input."""
        return [f"{codec:>12} reads {', '.join(cells)}" for codec, cells in self.readings]


def is_between_words(text: str) -> bool:
    """Whether the signs of `text` beyond ASCII all stand between words, as quotes, dashes and ©
    do. What else may be a letter of another code page."""
    for match in re.finditer(r"[^\x00-\x7f]", text):
        sign, at = match[0], match.start()
        before, after = text[at - 1 : at], text[at + 1 : at + 2]
        if unicodedata.category(sign)[0] in "LMC":
            return False
        if after.isalpha() and not (sign in _OPENING and _is_closed(text[at + 1 :])):
            return False
        if before.isalpha() and sign not in _ENDING and not _closes(sign, text[:at]):
            return False
        if not _is_typed(sign, text[:at], text[at + 1 :]):
            return False
    return True


def _is_typed(sign: str, earlier: str, rest: str) -> bool:
    """Whether `sign` stands where people type it: between words, a letter of another code page
    can stand as well."""
    if sign in _PAIRED:
        return _PAIRED[sign] in earlier + rest
    if sign in _OPENING:
        return not rest[:1].isspace() and _is_closed(rest)
    if sign in _CLOSING:
        return _closes(sign, earlier)
    if sign in _BESIDE_DIGITS:
        return earlier.rstrip()[-1:].isdigit() or rest.lstrip()[:1].isdigit()
    if sign in _BEHIND and earlier[-1:].strip():
        return True
    return sign in _FREE


def _is_closed(rest: str) -> bool:
    return any(sign in rest for sign in _CLOSING)


def _closes(sign: str, earlier: str) -> bool:
    return sign in _CLOSING and any(opening in earlier for opening in _OPENING)


def guess_encoding(sample: bytes, *, decides_words: bool) -> Guess:
    """The likeliest code page of `sample`: lines with bytes beyond ASCII, in none of Unicode's
    encodings."""
    codecs = [*_WESTERN, *(match.encoding for match in from_bytes(sample, cp_isolation=[*_OTHERS]))]
    costs = {codec: _cost(sample, codec) for codec in dict.fromkeys(codecs) if codec in _PRIORS}
    ranked = sorted(costs, key=lambda codec: costs[codec])
    return Guess(ranked[0], _readings(sample, ranked), decides_words)


def guess_of(codec: str, sample: bytes) -> Guess:
    """The guess that can only be `codec`."""
    return Guess(codec, _readings(sample, [codec]), decides_words=True)


def _cost(sample: bytes, codec: str) -> float:
    """How badly `sample` reads as `codec`; a word's worst is about 4."""
    words = _WORD.findall(_decoded(sample, codec))[:_MOST_WORDS]
    costs = [_word_cost(word, codec) for word in words]
    return sum(costs) / max(1, len(costs)) + _PRIORS[codec] * 0.5


def _word_cost(word: str, codec: str) -> float:
    foreign = [letter for letter in word if not letter.isascii()]
    cost = sum(_sign_cost(letter) for letter in foreign)
    letters = [letter for letter in word if letter.isalpha()]
    if any(one.islower() and two.isupper() for one, two in pairwise(letters)):
        cost += 2.0
    if re.search(r"^[^\W\d_]{2}", word) and word[0] == foreign[0] and word[0].islower():
        cost += 0.3
    if word[:2].isalpha() and word[:2].isupper() and word[-1].islower():
        cost += 1.0
    scripts = {_script(letter) for letter in letters}
    if len(scripts) > 1:
        return cost + 4.0
    if scripts == {"LATIN"}:
        accented = {letter for letter in foreign if letter.isalpha()}
        cost += 2.0 if len(foreign) == len(word) > 1 else 0.0
        return cost + min(len(accented - alphabet) for alphabet in _ALPHABETS)
    if scripts & {"CYRILLIC", "GREEK"} and len(letters) > 2:
        vowels = sum(letter.lower() in _VOWELS for letter in letters) / len(letters)
        cost += 1.5 * abs(vowels - 0.45)
    if codec in _COMMON_LEADS:
        cost += sum(_is_rare(letter, codec) for letter in foreign) / max(1, len(foreign))
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


def _is_rare(letter: str, codec: str) -> bool:
    lead = letter.encode(codec, "replace")[0]
    return not any(lead in leads for leads in _COMMON_LEADS[codec])


def _decoded(sample: bytes, codec: str) -> str:
    return sample.decode(codec, "replace")


def _readings(sample: bytes, ranked: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The best ranked codecs that read something differently, with the first cells that show it."""
    found: dict[tuple[str, ...], str] = {}
    for codec in ranked:
        cells = _foreign_cells(_CELL_ENDS.split(_decoded(sample, codec)))
        found.setdefault(cells, codec)
        if len(found) == _SHOWN_CODECS:
            break
    return tuple((codec, cells) for cells, codec in found.items())


def _foreign_cells(cells: Iterable[str]) -> tuple[str, ...]:
    foreign = (cell.strip() for cell in cells if not cell.isascii())
    shown = (repr(cell[:_SHOWN_CHARS]) for cell in foreign)
    return tuple(list(dict.fromkeys(shown))[:_SHOWN_CELLS])
