"""Rows and cells as sources hold them, and a cell of any type as the text a person would read.

Files of text hold text; sheets, Parquet and tables hold numbers, dates, lists, bytes. What has
one obvious text becomes it; the rest is refused by name, and shown in the rejects file. So it is
with text that a spreadsheet or another program has altered: what is certain is undone
(`="02134"` is 02134), what isn't is refused, and nothing is guessed.
"""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

NOT_COMPUTED = "#NOT-COMPUTED!"
_LOST = "\ufffd"  # what decoders put in the place of a character that they can't read
# What spreadsheets show where there is no value, in the languages they are sold in; ignoring case.
ERROR_WORDS = frozenset(
    f"{NOT_COMPUTED} "
    "#NULL! #DIV/0! #VALUE! #REF! #NAME? #NUM! #N/A #N/A! #SPILL! #CALC! #FIELD! #BLOCKED! #BUSY! "
    "#CONNECT! #UNKNOWN! #EXTERNAL! #PYTHON! #TIMEOUT! #GETTING_DATA #ERROR! #LOADING! #CIRCULAR! "
    "#WERT! #BEZUG! #ZAHL! #NV #ÜBERLAUF! #KALK! #FELD! #BLOCKIERT! #DATEN_ABRUFEN "
    "#NUL! #VALEUR! #NOM? #NOMBRE! #CHARGEMENT_DONNEES #EPARS! #ÉPARS! #PROPAGATION! #CALCUL! "
    "#CHAMP! #BLOQUE! #NULO! #VALOR! #NOMBRE? #N/D #N/D! #DESBORDAMIENTO! #CAMPO! #NÚM! #NOME? "
    "#DESPEJAR! #NULLO! #VALORE! #RIF! #ESPANSIONE! #CALCOLO! #LEEG! #DEEL/0! #WAARDE! #VERW! "
    "#NAAM? #GETAL! #N/B #OVERLOPEN! #SKÄRNING! #DIVISION/0! #VÄRDEFEL! #REFERENS! #NAMN? "
    "#OGILTIGT! #SAKNAS! #VÆRDI! #REFERENCE! #NAVN? #I/T #VERDI! #TYHJÄ! #JAKO/0! #ARVO! "
    "#VIITTAUS! #NIMI? #LUKU! #PUUTTUU! #PUUTTUU #ZERO! #DZIEL/0! #ARG! #ADR! #NAZWA? #LICZBA! "
    "#DĚLENÍ_NULOU! #HODNOTA! #ODKAZ! #NÁZEV? #ČÍSLO! #NENÍ_K_DISPOZICI #NEDOSTUPNÝ #NULLA! "
    "#ZÉRÓOSZTÓ! #ÉRTÉK! #HIV! #NÉV? #SZÁM! #HIÁNYZIK #ПУСТО! #ДЕЛ/0! #ЗНАЧ! #ССЫЛКА! #ИМЯ? "
    "#ЧИСЛО! #Н/Д #ДІЛ/0! #ЗНАЧЕННЯ! #ПОСИЛАННЯ! #НАЗВА? #БОШ! #BOŞ! #SAYI/0! #DEĞER! #BAŞV! #AD? "
    "#SAYI! #YOK #ΔΙΑΙΡ/0! #ΤΙΜΗ! #ΑΝΑΦ! #ΟΝΟΜΑ? #ΑΡΙΘ! #Δ/Υ #KEINWERT! #FEHLER! #ERREUR! #ERRO! "
    "#ERRORE! #ОШИБКА!".casefold().split()
)
# with the Spanish marks before the word; `Err:502` of LibreOffice; ##### where a column is narrow
_ERROR_SHAPE = re.compile(
    r"#[¡¿][\w/]{2,20}[!?]?|#N/A\s.*|(?:err|error|fehler|erreur|errore|fout|fel|erro):\s?5\d\d"
    r"|#{3,}",
    re.I,
)
# Signs of Windows (’ “ € …) that a program has read as Latin-1, where these numbers are controls.
# Five mean nothing there, and 0x85 may be a line end as well.
_C1 = re.compile("[\x80-\x9f]")
_MISREAD = {
    code: bytes([code]).decode("cp1252")
    for code in range(0x80, 0xA0)
    if code not in (0x81, 0x85, 0x8D, 0x8F, 0x90, 0x9D)
}
# UTF-8 that a program has read as CP1252 (JosÃ©), or on a Mac as Mac Roman (Jos√©), and saved so:
# character → its byte, with the controls of Latin-1 for those that CP1252 leaves out.
_BYTES = {
    codec: {
        **{chr(code): code for code in range(0xA0)},
        **{bytes([code]).decode(codec, "ignore"): code for code in range(0x80, 0x100)},
    }
    for codec in ("cp1252", "mac_roman")
}
# No text reads like that by chance where it comes out in Latin letters and the signs around them,
_LATIN = re.compile("[\x00-\x7f\xa0-\u017f‐-—‘-„†-…™€]+")
# except that a sign, or a space that doesn't break, may stand behind a word in capitals, and a
# letter behind one of these.
_BY_CHANCE = {
    "cp1252": re.compile(r"[A-Z][ÃÄÅ][®™”’»](?![^\W\d_])|[A-Z](?:[A-Z]Ã|[ÄÅ])\xa0|[ÄÅ][^\W\d_]"),
    "mac_roman": re.compile(r"ƒ[^\W\d_]"),
}

# a cheap look at a trimmed cell in ASCII: may it be one of those that `unaltered` knows?
MAY_BE_ALTERED = re.compile(
    r"[=#']|[A-Za-z]{3,6}:|[+-]?\d+(?:(?:[.,]\d+)+(?:E[+-]?\d+)?|E[+-]?\d\d+)$"
    r"|\d{15}000|\d{4}-\d\d-\d\d[ T]",
    re.I,
)
_AS_TEXT = re.compile(r"""=\s*["“”„]((?:[^"“”„]|"")*)["“”]""")  # ="02134", as exports write text
_KEPT_AS_TEXT = re.compile(r"'([+(]?[\s().+\-/:,]*+\d[\d\s().+\-/:,]*+)'?|'([=@][^']*|[+-]\d[^']*)")
_SHORTENED = re.compile(r"[+-]?\d+(?:[.,]\d+)?E\+\d\d+|[+-]?\d[.,]\d+E[+-]?\d+", re.I)
_NO_CODE = re.compile(r"=.*|[+-]?\d+(?:[.,]\d+)+", re.DOTALL)
_MIDNIGHT = re.compile(r"\d{4}-\d\d-\d\d[ T]00:00(?::00(?:\.0+)?)?(?:Z|\+00:?(?:00)?)?")
_WHOLE_AS_FLOAT = re.compile(r"([+-]?\d+)[.,]0+")
MOST_EXACT = 2**53  # the largest integer up to which a float holds each
_INEXACT = (
    "is a number of more digits than a spreadsheet holds; its last ones are lost. Format the "
    "column as text, and fill in the number"
)
# of three zeros behind the digits that a spreadsheet keeps, one code in a thousand has them itself
_ROUNDED = re.compile(r"\d{15}0{3,}")
_LONGEST_WHOLE = 10**21
_NO_TEXT: dict[type, str] = {
    **{bool: "a true/false value", bytes: "binary data"},
    **{dict: "an object", list: "a list", tuple: "a list"},
}


class InputRow(NamedTuple):
    """One row, not yet checked. (A tuple, since a million are made; so is ValidRow.)

    row_number: the line a row of text starts on, the sheet's row number, or the position in a
    Parquet file, table or query; from 1, the header counted where there is one.
    values: by column, as the source holds them; text formats hold text. A column that the row
    doesn't mention (a key that a line of JSON leaves out) is missing here; one that it shows as
    empty is there, as None or "". Only the latter may ever clear a field.
    problem: why this row can't be read as a row of this input; None where it can. It never quotes
    the row: it goes into logs and the ledger.
    raw: the row as it stands in the input, where `values` can't hold all of it; for the rejects
    file alone.
    """

    row_number: int
    values: dict[str, Any]
    problem: str | None = None
    raw: str | None = None


@dataclass(frozen=True)
class Unreadable:
    """A cell whose value can't be had. what: in words, with its article. advice: what to do.
    text: what the rejects file shows for it."""

    what: str
    text: str = "#VALUE!"
    advice: str = "Convert it, or ignore the column"

    def __str__(self) -> str:
        return self.text


class BadCell(ValueError):
    """What is wrong with a cell. detail: more of it, which may quote the cell, so that it goes
    into the rejects file alone; the message itself holds nothing of the cell."""

    def __init__(self, reason: str, detail: str) -> None:
        self.detail = detail
        super().__init__(reason)


def amount(count: int, noun: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def is_empty(value: Any) -> bool:
    """Whether a cell has nothing in it: null, or text of white space."""
    return value is None or (isinstance(value, str) and not value.strip())


def is_error_word(text: str) -> bool:
    """Whether `text` is what a spreadsheet shows where it has no value."""
    return text.casefold() in ERROR_WORDS or _ERROR_SHAPE.fullmatch(text) is not None


def check_readable(value: Any) -> None:
    """Raises ValueError for what a spreadsheet or a table shows where it has no value."""
    if isinstance(value, Unreadable):
        raise ValueError(f"holds {value.what}. {value.advice}")
    if value == NOT_COMPUTED:
        raise ValueError("holds a formula without a stored value. Open and save the workbook")
    if isinstance(value, str) and is_error_word(value):
        raise ValueError(f"shows the error {value}. Correct it, or empty the cell")
    if isinstance(value, str) and _LOST in value:
        raise ValueError(
            "holds a character that was lost when the text was converted (U+FFFD). Fill it in, or "
            "convert the source again"
        )


def unaltered(text: str, *, is_code: bool = False) -> str:
    """`text` (a trimmed cell) as it was before a spreadsheet or an export altered it.

    is_code: of a field whose numbers are names (a postal code, an id): 10014.0 is 10014 there.

    Raises:
        ValueError: what it was is lost.
    """
    if match := _AS_TEXT.fullmatch(text):
        text = match[1].replace('""', '"').strip()
    elif match := _KEPT_AS_TEXT.fullmatch(text):
        text = (match[1] or match[2]).strip()
    elif is_code and _ROUNDED.fullmatch(text):
        raise ValueError(
            "ends in zeros where a spreadsheet rounds a number of more than 15 digits. Fill in the "
            'number; if this is it, write it as ="123"'
        )
    if not text.isascii():
        text = _decoded_again(text)
    if not text.isascii() and _C1.search(text):
        text = text.translate(_MISREAD)
        if _C1.search(text):
            raise ValueError("holds a control character. Remove or retype it")
    check_readable(text)
    if _SHORTENED.fullmatch(text):
        raise ValueError(
            "is a number that a spreadsheet has shortened; its last digits are lost. Format the "
            "column as text, and fill in the number"
        )
    if is_code and (match := _WHOLE_AS_FLOAT.fullmatch(text)):
        if abs(int(match[1])) >= MOST_EXACT:
            raise ValueError(_INEXACT)
        text = match[1]
    return text


def _decoded_again(text: str) -> str:
    """`text` as it was written, where a program has certainly read its UTF-8 as something else,
    once or again. Not for ASCII."""
    for codec, bytes_of in _BYTES.items():
        with suppress(KeyError, UnicodeDecodeError):
            written = _decoded_again(bytes(bytes_of[sign] for sign in text).decode())
            if _LATIN.fullmatch(written) and not _BY_CHANCE[codec].search(text):
                return written
    return text


def is_date_written_out(text: str) -> bool:
    """Whether `text` is what programs write for a cell that a spreadsheet has made a date of."""
    return _MIDNIGHT.fullmatch(text) is not None


def check_code(text: str) -> None:
    """Raises ValueError for a code, such as a postal code, that a spreadsheet shows as a formula,
    with decimals, or with separators of thousands: 10,014 may be a piece of 10014 as well."""
    if _NO_CODE.fullmatch(text):
        raise ValueError(
            "is a formula, or a number with decimals or thousands separators, not a code. "
            "Format the column as text, and fill in the code"
        )


def text_of(value: Any) -> str:
    """`value` as text for a text field: 5551234567.0 is `5551234567`, dates are ISO 8601.

    Raises:
        ValueError: there is no one text for it; the message names the type.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return _number_text(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    kind = _NO_TEXT.get(type(value), f"a value of type {type(value).__name__}")
    raise ValueError(f"holds {kind}, where text is expected. Convert it, or ignore the column")


def _number_text(value: int | float | Decimal) -> str:
    if not math.isfinite(value):
        raise ValueError(f"holds {value}, which isn't a number. Empty the cell, or correct it")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and abs(value) >= MOST_EXACT:
        raise ValueError(_INEXACT)
    if -_LONGEST_WHOLE < value < _LONGEST_WHOLE and value == int(value):
        return str(int(value))
    return format(value, "f") if isinstance(value, Decimal) else repr(value)


def shown(value: Any) -> str:
    """`value` as a cell of the rejects file; reads back as the same value where text can."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes | bytearray | memoryview):
        return "0x" + bytes(value).hex()
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=shown)
    try:
        return text_of(value)
    except ValueError:
        return str(value)


def json_ready(value: Any) -> Any:
    """`value` with everything inside it as JSON knows it; dates inside are ISO 8601 text.

    Raises:
        ValueError: something inside has no JSON form.
    """
    if isinstance(value, dict):
        return {_encodable(str(key)): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"holds {value} inside, which JSON doesn't know")
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ValueError("holds an integer of more than 64 bits inside. Write it as text")
    if value is None or isinstance(value, bool | int | float):
        return value
    return _encodable(text_of(value))


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a character inside (a lone surrogate). Retype it") from None
    return text
