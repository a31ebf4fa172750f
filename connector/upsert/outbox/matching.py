"""Who a row is about: spellings of one contact, forms of one name, two people behind one contact.

Families share a phone and offices a mailbox. The API matches by either contact and overwrites
whom it finds, so a shared contact alone doesn't make two people one: first names and the other
contact decide. Each row is judged by itself, before rows are taken together. All of it is pure;
what the outbox keeps of contacts and names are keyed hashes.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import orjson

from connector.upsert.rows import MANNERS

READ_AS = {"stageId": "currentStageId"}
"""What is written under one name and read under another."""
# The contract names these in what is read, so an absent one is null; others may be write-only.
ALWAYS_READ = frozenset(
    {"firstName", "lastName", "email", "phone", "currentStageId", "labels", "title", "company"}
)
_LEAST_DIGITS = 7
# Letters whose accent or ligature no decomposition takes apart, and spellings without the accent
# that people use instead of plain omission.
_PLAIN = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h"}
)
_SPELLED_OUT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa"})
# combining accents of Latin, Greek and Cyrillic; optional vowel signs of Hebrew and Arabic. Vowel
# signs of other scripts are letters, not accents.
_ACCENTS = ((0x0300, 0x036F), (0x0591, 0x05C7), (0x064B, 0x0652), (0x0670, 0x0670))
_LONGEST = 40
_TWO_PEOPLE = (
    "a different first name from {other}, but the same {contact}: two people behind one contact? "
    "Sending it would overwrite the other. Give the row a contact of its own; if both are one "
    "person, push it with --allow-shared-contact."
)
DISPUTED = (
    "the contact is disputed: HiringCenter answered with prospect {answered} where {expected} was "
    "expected. Look at both in HiringCenter; push the row with --allow-shared-contact to send it "
    "to the person who has the contact now."
)
AliasKind = Literal["email", "phone", "row", "prospect", "source", "name"]
_ALIAS_KINDS: tuple[AliasKind, ...] = get_args(AliasKind)
CONTENT_BYTES = 16
_NAME_BYTES = 4
CELL_BYTES = 6
_MAC_BYTES = 32
_CONTACTS = ("email", "phone")  # hardly ever twice in one file


class Comparison(NamedTuple):
    """differs: fields whose value is another one. unseen: fields that can't be read at all."""

    differs: list[str]
    unseen: list[str]

    @property
    def equal(self) -> bool:
        return not self.differs and not self.unseen


def compare(payload: Mapping[str, Any], item: Mapping[str, Any]) -> Comparison:
    """`payload` as it was written against `item` as it is read. API names on both sides."""
    differs, unseen = [], []
    for name, wanted in payload.items():
        read_as = READ_AS.get(name, name)
        if name in MANNERS:
            continue
        if read_as not in item and read_as not in ALWAYS_READ:
            unseen.append(name)
        elif not same_value(name, wanted, item.get(read_as)):
            differs.append(name)
    return Comparison(differs, unseen)


def is_nothing(value: Any) -> bool:
    """Whether a field that was read is empty."""
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def same_value(name: str, wanted: Any, found: Any) -> bool:
    """Whether a field as it was written is what is read, normalized as the API does."""
    if name == "email":
        return same_email(wanted, found)
    if name == "phone":
        return same_phone(wanted, found)
    if name == "labels":
        return _labels(wanted) == _labels(found)
    if isinstance(wanted, str) and isinstance(found, str):
        return wanted.strip() == found.strip()
    return bool(wanted == found) or (is_nothing(wanted) and is_nothing(found))


def normal_value(name: str, value: Any) -> Any:
    """One form for all spellings of a field's value, as far as that is possible for one side alone:
    two phones with and without country code have two forms."""
    if name == "labels":
        return _labels(value)
    if isinstance(value, str):
        text = value.strip() or None
        if name == "phone" and text:
            return _digits(value) or text
        return text.casefold() if name == "email" and text else text
    return None if is_nothing(value) else value


def same_email(one: Any, other: Any) -> bool:
    """Two addresses that reach one mailbox, as far as the API knows: case doesn't count."""
    if isinstance(one, str) and isinstance(other, str):
        return one.strip().casefold() == other.strip().casefold()
    return not one and not other


def same_phone(one: Any, other: Any) -> bool:
    """Two spellings of one number; the shorter may lack the country code."""
    if one == other:
        return True
    digits, others = _digits(one), _digits(other)
    if len(digits) < _LEAST_DIGITS or len(others) < _LEAST_DIGITS:
        return digits == others
    return digits.endswith(others) or others.endswith(digits)


def _digits(phone: Any) -> str:
    if not isinstance(phone, str):
        return ""
    plain = phone.removeprefix("+")
    return (plain if plain.isdecimal() else re.sub(r"\D", "", phone)).lstrip("0")


def _labels(labels: Any) -> list[str]:
    if isinstance(labels, str):
        labels = labels.split(",")
    return sorted({str(label).strip() for label in labels or ()})


def _folded(name: str) -> str:
    """`name` without case, accents, spaces and punctuation; "" where no letter is left."""
    if name.isascii():
        return "".join(filter(str.isalnum, name.lower()))
    plain = unicodedata.normalize("NFKC", name).casefold().translate(_PLAIN)
    kept = (
        char
        for char in unicodedata.normalize("NFKD", plain)
        if (char.isalnum() or unicodedata.category(char)[0] == "M")
        and not any(first <= ord(char) <= last for first, last in _ACCENTS)
    )
    return unicodedata.normalize("NFC", "".join(kept))


def labels_read(labels: Any) -> list[str] | None:
    """The labels of a prospect that was read, whether they came as a list or separated by commas;
    None where they are in neither form, so that which there are isn't known."""
    if isinstance(labels, str):
        return [label for part in labels.split(",") if (label := part.strip())]
    if isinstance(labels, list) and all(isinstance(label, str | int) for label in labels):
        return list(map(str, labels))
    return None


class Name(NamedTuple):
    """A first name. whole: folded; forms: whatever it may be shortened to, itself included. Both
    are text, or keyed hashes of it (see `Hasher.name`)."""

    whole: str | bytes
    forms: frozenset[str | bytes]

    def agrees(self, other: Name) -> bool:
        """Whether both may be one person's: equal, or one is a prefix or the initials of the
        other. Nicknames (Bob, Robert) are other names."""
        return self.whole in other.forms or other.whole in self.forms


@lru_cache(maxsize=20_000)
def first_name(text: object) -> Name | None:
    """`text` as a first name; None where there is none, which contradicts no one."""
    if not isinstance(text, str) or not (whole := _folded(text)):
        return None
    forms = {whole[:length] for length in range(1, min(len(whole), _LONGEST) + 1)} | {whole}
    words = [word for part in text.split() for word in part.replace(".", "-").split("-")]
    initials = "".join(_folded(word)[:1] for word in words)
    if len(initials) > 1:
        forms.add(initials)
    if not text.isascii():
        spelled_out = unicodedata.normalize("NFKC", text).casefold().translate(_SPELLED_OUT)
        forms.add(_folded(spelled_out))
    return Name(whole, frozenset(forms))


class OtherPerson(NamedTuple):
    """A known prospect of another first name whom a row's contacts lead to. by_email, by_phone:
    which of them. first_name: where it is known in clear."""

    prospect_id: str
    by_email: bool
    by_phone: bool
    first_name: str | None = None


@dataclass(frozen=True)
class Candidate:
    """One row to be judged. contacts: keys of its email, its phone and the prospects they lead to.

    both: email and phone, where it has both. others: known people of another first name. rank: the
    lower, the better known that the row is about whom it matches. settled: those of `contacts`
    that lead to a person on whom this source has settled the name, so that no row speaks against.
    """

    row_number: int
    name: Name | None
    text: str
    contacts: tuple[tuple[str, Hashable], ...]
    both: Hashable | None
    others: tuple[OtherPerson, ...] = ()
    rank: int = 2
    settled: frozenset[tuple[str, Hashable]] = frozenset()


class Conflict(NamedTuple):
    """Why a row isn't sent. reason: without names. names: this row's and the other's."""

    reason: str
    names: str


def _conflict(text: str, other: str, contact: str, other_text: str | None) -> Conflict:
    """other: `prospect ID` or `row N`. text, other_text: the first names."""
    reason = _TWO_PEOPLE.format(other=other, contact=contact)
    theirs = f"; the other: {other_text}" if other_text else ""
    return Conflict(reason, f"this row: {text}{theirs}")


_ByName = dict[Name, Candidate]  # the first row of each first name


def judge(rows: Sequence[Candidate]) -> dict[int, Conflict]:
    """row number → why it is rejected, for rows that share contacts with each other (or one row).

    Judged against whom the API has first, then against the file's other rows: those that surely
    are about the person they match come first, then the order of the file decides.
    """
    conflicts: dict[int, Conflict] = {}
    pairs: dict[Hashable, _ByName] = {}  # by email and phone
    named = [(row, row.name) for row in rows if row.name is not None]
    for row, name in named:
        if row.both is not None:
            pairs.setdefault(row.both, {}).setdefault(name, row)
    for row, name in named:
        if (found := _against_known(row, name, pairs.get(row.both, {}))) is not None:
            conflicts[row.row_number] = found
    claims: dict[tuple[str, Hashable], _ByName] = {}
    for row, name in sorted(named, key=lambda each: (each[0].rank, each[0].row_number)):
        if row.row_number in conflicts:
            continue
        if (found := _against_claims(row, name, claims)) is not None:
            conflicts[row.row_number] = found
            continue
        for contact in row.contacts:
            claims.setdefault(contact, {}).setdefault(name, row)
    return conflicts


def _against_known(row: Candidate, name: Name, same_pair: _ByName) -> Conflict | None:
    for other in row.others:
        known = f"prospect {other.prospect_id}"
        if other.by_email != other.by_phone:
            contact = "email" if other.by_email else "phone"
            return _conflict(row.text, known, contact, other.first_name)
        for other_name, twin in same_pair.items():
            if not other_name.agrees(name):
                known += f" and row {twin.row_number}"
                return _conflict(row.text, known, "email and phone", twin.text)
    return None


def _against_claims(
    row: Candidate, name: Name, claims: Mapping[tuple[str, Hashable], _ByName]
) -> Conflict | None:
    for kind, key in row.contacts:
        claimed = {} if (kind, key) in row.settled else claims.get((kind, key), {})
        for other_name, other in claimed.items():
            if not other_name.agrees(name):
                contact = f"prospect ({key})" if kind == "prospect" else kind
                first = f"row {other.row_number}"
                return _conflict(row.text, first, contact, other.text)
    return None


def conflict_with(payload: Mapping[str, Any], item: Mapping[str, Any]) -> Conflict | None:
    """Why a row isn't sent to the prospect `item` that the API has matched with it."""
    name, other = first_name(payload.get("firstName")), first_name(item.get("firstName"))
    if name is None or other is None or name.agrees(other):
        return None
    by_email = bool(payload.get("email")) and same_email(payload["email"], item.get("email"))
    by_phone = bool(payload.get("phone")) and same_phone(payload["phone"], item.get("phone"))
    if by_email and by_phone:
        return None
    contact = "email" if by_email else "phone" if by_phone else "email or phone"
    known = f"prospect {item.get('id')}"
    return _conflict(payload["firstName"], known, contact, item["firstName"])


class Hasher:
    """Keyed hashes of contacts and payloads; without `salt` (32 bytes) they can't be guessed at."""

    def __init__(self, salt: bytes) -> None:
        # copies of a keyed state: keying costs as much as hashing
        self._aliases = {kind: _keyed(salt, 8, f"{kind}:".encode()) for kind in _ALIAS_KINDS}
        self._content = _keyed(salt, CONTENT_BYTES)
        self._name = _keyed(salt, _NAME_BYTES, b"name:")
        self._cell = _keyed(salt, CELL_BYTES, b"cell:")
        self._mac = hashlib.blake2b(digest_size=_MAC_BYTES, key=salt, person=b"plan file")
        self._cell_of_text = lru_cache(maxsize=50_000)(self._hash_cell)
        self._first_names = lru_cache(maxsize=20_000)(self._hash_first_name)

    def alias(self, kind: AliasKind, value: str) -> int:
        """A signed 64-bit number for one contact. value: normalized already."""
        state = self._aliases[kind].copy()
        state.update(value.casefold().encode("utf-8", "surrogatepass"))
        return int.from_bytes(state.digest(), "big", signed=True)

    def source_and_name(self, source: str, name: Name) -> tuple[int, int]:
        """What stands for a source and a first name that it has settled."""
        return self.alias("source", source), self.alias("name", str(name.whole))

    def content(self, payload: Mapping[str, Any]) -> bytes:
        """16 bytes for what `payload` says, whatever the order of its fields.

        Raises:
            TypeError: a value that JSON can't carry.
        """
        fields = dict(payload)
        for name in MANNERS:
            fields.pop(name, None)
        state = self._content.copy()
        state.update(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS))
        return state.digest()

    def cell(self, name: str, value: Any) -> bytes:
        """6 bytes for one field's value, the same for all its spellings that `normal_value` knows.
        A change is missed where two values share them: one in 280 million million."""
        if type(value) is str and name not in _CONTACTS:
            return self._cell_of_text(name, value)
        return self._hash_cell(name, value)

    def _hash_cell(self, name: str, value: Any) -> bytes:
        text = normal_value(name, value)
        if type(text) is not str:
            text = orjson.dumps(text, option=orjson.OPT_SORT_KEYS).decode()
        state = self._cell.copy()
        state.update(f"{name}:{text}".encode("utf-8", "surrogatepass"))
        return state.digest()

    def new_mac(self) -> hashlib.blake2b:
        """A MAC of a plan file, still of nothing: only who has the salt can make one."""
        return self._mac.copy()

    def names(self, first: Any, last: Any) -> bytes:
        """Keyed hashes of a person's names: the last one's, then the whole first name's and those
        of its other forms, none where there is no first name. Four bytes each."""
        name = first_name(first)
        forms = (name.whole, *sorted(map(str, name.forms - {name.whole}))) if name else ()
        last = _folded(last) if isinstance(last, str) else ""
        return b"".join(self._hashed(text) for text in (f"last:{last}", *forms))

    def entry_names(self, first: Any, last: Any) -> bytes:
        """Keyed hashes of a row's last name, whole first name, and its initial; see `Entry`."""
        last = _folded(last) if isinstance(last, str) else ""
        return self._hashed(f"last:{last}") + self._first_names(first)

    def _hash_first_name(self, first: Any) -> bytes:
        name = first_name(first)
        whole = str(name.whole) if name else ""
        return self._hashed(whole) + self._hashed(whole[:1])

    def name(self, name: Name) -> Name:
        """`name` as keyed hashes, to be compared with stored ones."""
        return Name(self._hashed(name.whole), frozenset(map(self._hashed, name.forms)))

    def _hashed(self, text: str | bytes) -> bytes:
        state = self._name.copy()
        state.update(str(text).encode("utf-8", "surrogatepass"))
        return state.digest()


def stored_first_name(names: bytes | None) -> Name | None:
    """The first name within what `Hasher.names` made; None where it isn't known."""
    if names is None or len(names) <= _NAME_BYTES:
        return None
    starts = range(_NAME_BYTES, len(names), _NAME_BYTES)
    forms = [names[start : start + _NAME_BYTES] for start in starts]
    return Name(forms[0], frozenset(forms))


def _keyed(salt: bytes, size: int, begin: bytes = b"") -> hashlib.blake2b:
    return hashlib.blake2b(begin, digest_size=size, key=salt)
