"""What people, and the programs they export from, call the API's fields.

Names are matched loosely, exports of well-known address books by their own columns; everything
else is suggested, never assumed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from connector.errors import nearest
from connector.upsert.rows.write_schema import (
    ACTIVITY_PREFIXES,
    ACTIVITY_ROW_FIELDS,
    FIELDS,
    REFERENCE_FIELDS,
)

_OTHER_WORDS = {
    "firstName": "forename givenname vorname first fname",
    "lastName": "surname familyname nachname last lname",
    "email": "emailaddress mail",
    "phone": "mobile cell cellphone phonenumber telephone tel mobilephone",
    "postalCode": "zip zipcode postcode plz",
    "streetAddress": "street address addressline1 address1",
    "state": "province region",
    "city": "town",
    "company": "employer organization organisation companyname",
    "title": "jobtitle position role",
    "labels": "label tags tag",
    "notes": "comment comments remarks",
    "stageId": "stage",
    "licenseStatus": "license licensed licence",
}
# names that mean one field in whatever file they stand
_SYNONYMS = {
    "givenname": "firstName",
    "familyname": "lastName",
    "emailaddress": "email",
    "email1value": "email",
    "phonenumber": "phone",
    "phone1value": "phone",
    "mobilephone": "phone",
    "mobilephonenumber": "phone",
    "companyname": "company",
    "organizationname": "company",
    "organization1name": "company",
    "jobtitle": "title",
    "organizationtitle": "title",
    "organization1title": "title",
    "state/region": "state",
}
_FULL_NAMES = frozenset({"name", "fullname"})
_SPACING = re.compile(r"[\s_-]+")
_LONGEST_NAME = 64


def normalized(name: str) -> str:
    """`name` as it is compared: `E-mail`, `e_mail` and `EMAIL` are one."""
    return _SPACING.sub("", name).casefold()


PROSPECTS = "prospects"
_BY_NAME = {normalized(name): name for name in FIELDS}
# where each row is an activity: `body`, and `note.body` as in a file of prospects
_BY_NAME_OF: dict[str, dict[str, str]] = {PROSPECTS: _BY_NAME} | {
    kind: {
        normalized(f"{start}{name}"): name
        for name in ACTIVITY_ROW_FIELDS[kind]
        for start in ("", *([] if name in REFERENCE_FIELDS else [f"{prefix}."]))
    }
    for prefix, kind in ACTIVITY_PREFIXES.items()
}
_SUGGESTED_OF_ACTIVITY = {
    **{"note": "body", "text": "body", "comment": "body", "due": "dueAt", "duedate": "dueAt"},
    **{"assignto": "assignedTo", "assignee": "assignedTo", "type": "meetingType"},
    **{"owner": "ownerId", "start": "meetingDate", "timezone": "timeZone"},
    **{"prospect": "prospectId", "mail": "email", "mobile": "phone", "tel": "phone"},
}
_SUGGESTED = {word: name for name, words in _OTHER_WORDS.items() for word in words.split()}


def field_called(name: str, kind: str = PROSPECTS) -> str | None:
    """The API field that `name` stands for; None if none does. kind: of the records that rows
    become."""
    return _BY_NAME_OF[kind].get(normalized(name))


def field_meant(name: str, kind: str = PROSPECTS) -> str | None:
    """The API field that `name` means where no other column has that field's own name."""
    meant = _SYNONYMS.get(normalized(name))
    return meant if kind == PROSPECTS or meant in REFERENCE_FIELDS else None


def is_field_word(name: str) -> bool:
    """Whether `name` is a word for a field, so that a message may quote it: no person's data."""
    return field_called(name) is not None or normalized(name) in {*_SYNONYMS, *_SUGGESTED}


def is_full_name(name: str) -> bool:
    """Whether a column called `name` holds first and last name together."""
    return normalized(name) in _FULL_NAMES


def field_like(name: str, kind: str = PROSPECTS) -> str | None:
    """The API field that `name` was probably meant to be, for error messages."""
    plain = normalized(name[: _LONGEST_NAME + 1])
    if kind != PROSPECTS:
        suggested = _SUGGESTED_OF_ACTIVITY.get(plain)
        if suggested in ACTIVITY_ROW_FIELDS[kind]:
            return suggested
        close = None if len(plain) > _LONGEST_NAME else nearest(plain, _BY_NAME_OF[kind])
        return _BY_NAME_OF[kind][close] if close else None
    if plain in _SUGGESTED:
        return _SUGGESTED[plain]
    if plain in _SYNONYMS or len(plain) > _LONGEST_NAME:
        return _SYNONYMS.get(plain)
    near = nearest(plain, _BY_NAME)
    return _BY_NAME[near] if near else None


@dataclass(frozen=True)
class Export:
    """An address book's export. Columns are written as `normalized` makes them.

    signs: it is this one if a column of each of these sets is there. fields: column → API field;
    of several for one field the first counts. others: the columns that have no field.
    """

    name: str
    signs: tuple[frozenset[str], ...]
    fields: dict[str, str]
    others: re.Pattern[str]

    def targets(
        self, columns: Sequence[str], taken: Collection[str]
    ) -> Iterator[tuple[str, str | None]]:
        """(column, its field or None) of the columns that belong to this export. taken: fields
        that something else gives already."""
        by_name = {normalized(name): name for name in columns if len(name) <= _LONGEST_NAME}
        given = set(taken)
        for name, target in self.fields.items():
            if name in by_name:
                yield by_name[name], None if target in given else target
                given.add(target)
        for name, column in by_name.items():
            if name not in self.fields and self.others.fullmatch(name):
                yield column, None


_EXPORTS = (
    Export(
        "Google Contacts",
        (frozenset({"email1value", "phone1value", "email1label", "email1type"}),),
        {
            **{"firstname": "firstName", "givenname": "firstName"},
            **{"lastname": "lastName", "familyname": "lastName"},
            **{"email1value": "email", "phone1value": "phone"},
            **{"organizationname": "company", "organization1name": "company"},
            **{"organizationtitle": "title", "organization1title": "title"},
            **{"address1street": "streetAddress", "address1city": "city"},
            **{"address1region": "state", "address1postalcode": "postalCode"},
        },
        re.compile(
            r"(email|phone|address|organization|website|relation|event|customfield|im|jot|"
            r"calendarlink|userdefinedfield|externalid|sipaddress)\d+\w*|.*yomi\w*|phonetic\w+|"
            r"organization(department|yominame|symbol|location|jobdescription|costcenter|type)|"
            r"middlename|additionalname|name(prefix|suffix)|initials|nickname|shortname|maidenname|"
            r"fileas|birthday|gender|location|billinginformation|directoryserver|mileage|"
            r"occupation|hobby|sensitivity|priority|subject|language|photo|groupmembership|labels|"
            r"name"
        ),
    ),
    Export(
        "Outlook",
        (
            frozenset({"emailaddress"}),
            frozenset({"emaildisplayname", "businessphone", "homephone", "email2address"}),
        ),
        {
            "emailaddress": "email",
            **dict.fromkeys(("mobilephone", "primaryphone", "homephone", "businessphone"), "phone"),
            **{"company": "company", "companyname": "company", "jobtitle": "title"},
            **{"homestreet": "streetAddress", "homecity": "city", "homestate": "state"},
            "homepostalcode": "postalCode",
        },
        re.compile(
            r"title|imaddress|middlename|suffix|nickname|\w*yomi|email\w*|(home|business|other|company|car|"
            r"assistant'?s|primary|radio|mobile)(main)?(phone|fax|street|city|state|postalcode|"
            r"country\S*|address\S*|telex|name)\d*|isdn|pager|telex|callback|tty/tddphone|"
            r"department|account|anniversary|billinginformation|birthday|categories|children|"
            r"directoryserver|gender|governmentidnumber|hobby|initials|internetfreebusy|keywords|"
            r"language|location|manager'?sname|mileage|officelocation|organizationalidnumber|"
            r"priority|private|profession|referredby|sensitivity|spouse|schools?|user\d|"
            r"(personal)?webpage|webpage\d"
        ),
    ),
    Export(
        "LinkedIn",
        (frozenset({"connectedon"}), frozenset({"emailaddress", "url", "position"})),
        {"emailaddress": "email", "position": "title"},
        re.compile(r"url|connectedon"),
    ),
    Export(
        "HubSpot",
        (
            frozenset({"recordid", "contactid"}),
            frozenset(
                {"contactowner", "leadstatus", "lifecyclestage", "createdate", "lastactivitydate"}
                | {"associatedcompany", "phonenumber", "marketingcontactstatus"}
            ),
        ),
        {
            **{"phonenumber": "phone", "mobilephonenumber": "phone", "jobtitle": "title"},
            **{"companyname": "company", "associatedcompany": "company"},
            "state/region": "state",
        },
        re.compile(
            r"recordid(\S*)|contactid|contactowner|leadstatus|lifecyclestage|associated\S+|"
            r"marketingcontact\S*|(create|lastactivity|lastmodified|lastcontacted|becamea\S*)date|"
            r"country/region|websiteurl|primarycompany|hubspot\S+|timesincelast\S*"
        ),
    ),
)


def export_of(columns: Sequence[str]) -> Export | None:
    """The program whose export has these columns, if it is a known one."""
    names = {normalized(column) for column in columns}
    return next(
        (each for each in _EXPORTS if all(sign & names for sign in each.signs)),
        None,
    )
