"""Encodings: detected from all of the bytes, reported, and never guessed over a broken cell."""

from __future__ import annotations

import re

import pytest

from connector.errors import InputError
from connector.upsert.inputs import open_input
from connector.upsert.inputs.text_decoding import is_between_words
from tests.unit.upsert_input.conftest import INPUTS, WriteFile

PEOPLE = "First;Last\nZoë;Müller\nJosé;Muñoz\nRené;O’Brien – €5\n"
CELLS = [["Zoë", "Müller"], ["José", "Muñoz"], ["René", "O’Brien – €5"]]


@pytest.mark.parametrize(
    ("encoding", "mark", "label"),
    [
        ("utf-8", b"", "UTF-8"),
        ("utf-8-sig", b"", "UTF-8 with BOM"),
        ("utf-16", b"", "UTF-16 LE"),
        ("utf-16-be", b"\xfe\xff", "UTF-16 BE"),
        ("utf-16-le", b"", "UTF-16 LE without BOM"),
        ("utf-16-be", b"", "UTF-16 BE without BOM"),
        ("utf-32", b"", "UTF-32"),
        ("cp1252", b"", "CP1252 (guessed)"),
    ],
)
def test_each_encoding_is_detected_and_reported(
    write: WriteFile, encoding: str, mark: bytes, label: str
) -> None:
    """The same cells come out of all of them, and the header has no mark in it."""
    read = open_input(write(mark + PEOPLE.encode(encoding)))
    assert read.description == f"CSV, {label}, semicolon delimiter"
    assert read.columns == ["First", "Last"]
    assert [list(row.values.values()) for row in read] == CELLS


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_an_accent_that_comes_late_decides(write: WriteFile, encoding: str) -> None:
    """More than a megabyte of ASCII in front of it don't."""
    read = open_input(write("name,b\n" + "x,1\n" * 300_000 + "José,2\n", encoding))
    for row in read:
        last = row
    assert last.values["name"] == "José"
    assert last.row_number == 300_002


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "a;b\né;x\n"),
        ("cp1252", "Name;City\nSørensen;Århus\nGonçalves;São Paulo\n"),
        ("cp1252", "Name,Company\nJosé,“Smart” Co – €5\n"),
        ("cp1251", "Имя;Фамилия\nИван;Петров\nОльга;Смирнова\n"),
        ("cp1250", "Imię;Nazwisko\nŁukasz;Wójcik\nGrażyna;Dąbrowska\nŻaneta;Świątek\n"),
        ("cp932", "名前,会社\n山田太郎,株式会社テスト\n"),
        ("gb18030", "姓名,公司\n王小明,北京公司\n"),
    ],
)
def test_other_alphabets_are_distinguished_from_western_ones(
    write: WriteFile, encoding: str, text: str
) -> None:
    """CP1252 wherever it is plausible; another code page where that would be gibberish."""
    read = open_input(write(text, encoding))
    got = [read.columns, *(list(row.values.values()) for row in read)]
    delimiter = ";" if ";" in text else ","
    assert got == [line.split(delimiter) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("mac_roman", "Åsa;Lindström\rGünther;Weiß\r"),
        ("mac_roman", "Renée;O’Brien\n"),
        ("cp850", "Chloé;Lefèvre\nGünther;Weiß\n"),
        ("cp437", "José;Muñoz\nRené;Müller\n"),
        ("cp1250", "Łukasz;Wiśniewski\nZdeněk;Dvořák\n"),
        ("cp852", "Łukasz;Wiśniewski\nZdeněk;Dvořák\n"),
        ("cp1254", "Şükrü;Yıldız\nÇağla;Işık\n"),
        ("cp1257", "Jānis;Bērziņš\nŽydrūnas;Šarūnas\n"),
        ("cp1255", "משה;כהן\n"),
        ("cp1253", "Γιώργος;Παπαδόπουλος\n"),
        ("cp1251", "Анна;Иванова\n"),
        ("koi8_r", "Иван;Петров\n"),
        ("cp866", "Иван;Петров\n"),
        ("cp932", "山田;太郎\n"),
        ("big5", "王;小明\n"),
        ("cp1252", "José;Muñoz\n"),
        ("cp1252", "Pat;O’Brien\n"),
        ("iso2022_jp", "山田;太郎\n"),
    ],
)
def test_few_names_are_enough_for_a_guess_that_is_called_one(
    write: WriteFile, encoding: str, text: str
) -> None:
    """Also of Macs and DOS. Whether it is right or not: words depend on it, and that is noted with
    the cells as each likely code page reads them."""
    with open_input(write("a;b\n" + text, encoding)) as read:
        assert [list(row.values.values()) for row in read] == [
            line.split(";") for line in text.splitlines()
        ]
        assert "(guessed)" in read.description
        assert read.guess is not None
        assert read.guess.decides_words
        foreign = next(cell for cell in re.split(r"[;\r\n]", text) if not cell.isascii())
        assert foreign in read.notes[1]
        assert "--encoding" in read.notes[0]


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("mac-roman.csv", [("Åsa", "Lindström"), ("Günther", "Weiß")]),
        ("dos-850.csv", [("Chloé", "Lefèvre"), ("Günther", "Weiß")]),
        ("central-european.csv", [("Łukasz", "Wiśniewski"), ("Zdeněk", "Dvořák")]),
    ],
)
def test_the_fixtures_are_guessed_right(file: str, names: list[tuple[str, str]]) -> None:
    """Of a Mac, of DOS, of Central Europe."""
    with open_input(INPUTS / file) as read:
        assert [(row.values["First Name"], row.values["Last Name"]) for row in read] == names


def test_one_copyright_sign_makes_no_file_japanese() -> None:
    """Nor stops it: no word depends on the sign."""
    with open_input(INPUTS / "one-copyright-sign.csv") as read:
        assert [row.values["Company"] for row in read] == ["Globex © 2024"]
        assert read.guess is None or not read.guess.decides_words


@pytest.mark.parametrize(
    "cell",
    [
        *("Globex © 2024", "“Smart” Co – €5", "Acme® Inc", "5 € – 7 €", "½ day", "50°", "A • B"),
        *("« Acme »", "the ‘Globex’ way", "£ 5", "10…"),
    ],
)
def test_signs_between_words_decide_nothing(write: WriteFile, cell: str) -> None:
    """They are CP1252, wherever they come from; no push is stopped for them."""
    with open_input(write(f"a;b\nx;{cell}\n", "cp1252")) as read:
        assert next(iter(read)).values["b"] == cell
        assert read.guess is not None
        assert not read.guess.decides_words


@pytest.mark.parametrize(
    "cell",
    [
        *("Zo‘", "Andr‚", "£ukasz", "O’Brien", "Mu¤oz", "Sar…", "™zil", "Mu–oz", "Al’", "Ð"),
        *("¸ 2024 Acme", "Firma ¹ 5", "« moon", "¥ Boss", "Web … Paris", "Isso ‚ bom", "X ¨ Y"),
        *("· louer", "† dra", "p” en”", "€. Y"),
    ],
)
def test_a_sign_at_a_word_may_be_a_letter_of_another_code_page(cell: str) -> None:
    """As CP1252 reads what Macs and DOS wrote: a quote that was never opened isn't a quote."""
    assert not is_between_words(f"x,{cell},y")


def test_utf_16_without_a_mark_is_detected_in_any_alphabet(write: WriteFile) -> None:
    """Few of its bytes are zero then, and they would be valid UTF-8 as well."""
    text = "имя;фамилия\n" + "Владислав;Константинопольский\n" * 40
    for codec in ("utf-16-le", "utf-16-be"):
        with open_input(write(text.encode(codec))) as read:
            assert read.columns == ["имя", "фамилия"]
            assert read.guess is None


def test_a_nul_in_a_short_file_isnt_taken_for_utf_16(write: WriteFile) -> None:
    """One zero byte is a damaged cell."""
    (row,) = open_input(write(b"First Name,Email\nA\0nn,a@b.co\n"))
    assert row.values["First Name"] == "A\0nn"


def test_one_broken_byte_does_not_garble_the_other_names(write: WriteFile) -> None:
    """A UTF-8 file stays one; the row with the byte names line, column and byte."""
    read = open_input(write("name,city\nJosé,Köln\nRen".encode() + b"\xe9,x\n" + b"Zo\xc3\xab,y\n"))
    rows = list(read)
    assert read.description == "CSV, UTF-8 with undecodable bytes, comma delimiter"
    assert [row.problem is None for row in rows] == [True, False, True]
    assert "column 'name': byte 0xE9 can't be decoded as utf-8" in str(rows[1].problem)
    assert rows[1].row_number == 3


def test_a_byte_that_cp1252_does_not_have_is_named(write: WriteFile) -> None:
    """Five bytes mean nothing in CP1252; they don't turn the file into another code page."""
    rows = list(open_input(write("name,b\nJosé Müller,1\n".encode("cp1252") + b"x\x81,2\n")))
    assert rows[0].values["name"] == "José Müller"
    assert "byte 0x81 can't be decoded as cp1252" in str(rows[1].problem)


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_half_a_character_at_the_end_of_utf16_is_named(write: WriteFile, codec: str) -> None:
    """A file that was cut short doesn't end the run."""
    mark = b"\xff\xfe" if codec == "utf-16-le" else b"\xfe\xff"
    rows = list(open_input(write(mark + "a,b\n1,2\n3,é".encode(codec)[:-1])))
    assert [row.problem is None for row in rows] == [True, False]


def test_a_header_that_cannot_be_decoded_is_refused(write: WriteFile) -> None:
    """A column's name can't be rejected alone."""
    with pytest.raises(InputError, match="line 1: the header: cell 2: byte 0xFF"):
        open_input(write("é,a".encode() + b"\xff\n" + "ü,1\n".encode()))


def test_an_encoding_can_be_named(write: WriteFile) -> None:
    """What is asked for is taken; what Python doesn't know is refused."""
    path = write("name,b\nŽofie,1\n", "cp1250")
    assert next(iter(open_input(path, encoding="cp1250"))).values["name"] == "Žofie"
    with pytest.raises(InputError, match="unknown encoding 'cp9999'"):
        open_input(path, encoding="cp9999")


@pytest.mark.parametrize("encoding", ["base64", "undefined", "a\0b", "idna " * 99])
def test_an_encoding_that_isnt_for_text_is_refused(write: WriteFile, encoding: str) -> None:
    """Python has codecs of other things too."""
    with pytest.raises(InputError, match="unknown encoding"):
        open_input(write("a,b\n"), encoding=encoding)


@pytest.mark.parametrize("content", ['\ufeff{"a": 1}\n', '{"a": 1}\n'])
def test_utf_8_by_name_reads_files_with_and_without_a_mark(write: WriteFile, content: str) -> None:
    """The mark isn't part of the first line."""
    (row,) = open_input(write(content), encoding="UTF8")
    assert (row.values, row.problem) == ({"a": 1}, None)


@pytest.mark.parametrize(
    ("named", "cells"),
    [("~", ["1,2"]), ("tab", ["1~1,2"]), ("\\t", ["1~1,2"]), ("\t", ["1~1,2"])],
)
def test_a_delimiter_can_be_named(write: WriteFile, named: str, cells: list[str]) -> None:
    """By itself, or by its name, as shells make a tab hard to type."""
    (row,) = open_input(write("n~a,b\n1~1,2\n"), delimiter=named)
    assert list(row.values.values())[-1:] == cells


@pytest.mark.parametrize("named", ["ab", '"', " ", "\n", "\0"])
def test_what_cannot_be_a_delimiter_is_refused(write: WriteFile, named: str) -> None:
    """The message says what may be given."""
    with pytest.raises(InputError, match="--delimiter takes one character"):
        open_input(write("a,b\n1,2\n"), delimiter=named)


def test_an_option_that_the_format_does_not_have_is_refused(write: WriteFile) -> None:
    """Ignoring it would leave users believing it was used."""
    with pytest.raises(InputError, match="is a CSV file, which has no --sheet"):
        open_input(write("a,b\n1,2\n"), sheet="May")
    with pytest.raises(InputError, match="is JSON Lines, which has no --delimiter"):
        open_input(write('{"a": 1}\n'), delimiter=";")


def test_a_file_without_line_ends_isnt_text(write: WriteFile) -> None:
    """It is refused before it fills the memory."""
    with pytest.raises(InputError, match="no line end within 32 MB"):
        open_input(write(b"x" * (34 * 1024 * 1024)))


def test_a_byte_order_mark_wins_over_the_encoding_that_is_named(write: WriteFile) -> None:
    """A rejects file is pushed with the options of the file that it came from; it has a mark."""
    read = open_input(write("name,b\nZoë,1\n".encode("utf-8-sig")), encoding="cp1252")
    assert (read.columns, read.description) == (
        ["name", "b"],
        "CSV, UTF-8 with BOM, not CP1252, comma delimiter",
    )
    assert next(iter(read)).values["name"] == "Zoë"
    damaged = open_input(write(b"\xef\xbb\xbfname,b\nZo\xeb,1\n"), encoding="cp1252")
    assert damaged.description == "CSV, CP1252, comma delimiter"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_named_encoding_whose_mark_is_missing_is_refused(write: WriteFile, encoding: str) -> None:
    """In words: Python's own decoder can't read such a file at all."""
    path = write("name,b\nZoë,1\n".encode(f"{encoding}-le"))
    with pytest.raises(InputError, match=rf"lacks the byte order mark.*{encoding}-le or"):
        open_input(path, encoding=encoding)
    (row,) = open_input(path, encoding=f"{encoding}-le")
    assert row.values == {"name": "Zoë", "b": "1"}
