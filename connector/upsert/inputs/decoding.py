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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from connector.errors import InputError
from connector.upsert.inputs.guessing import (
    Guess,
    guess_encoding,
    guess_of,
    is_between_words,
)

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
