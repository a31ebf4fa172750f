"""What people call the API's fields: matched loosely, suggested generously."""

from __future__ import annotations

import re

from connector.errors import nearest
from connector.upsert.rows.models import FIELDS

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
_SPACING = re.compile(r"[\s_-]+")


def normalized(name: str) -> str:
    """`name` as it is compared: `E-mail`, `e_mail` and `EMAIL` are one."""
    return _SPACING.sub("", name).casefold()


_BY_NAME = {normalized(name): name for name in FIELDS}
_SUGGESTED = {word: name for name, words in _OTHER_WORDS.items() for word in words.split()}


def field_called(name: str) -> str | None:
    """The API field that `name` stands for; None if none does."""
    return _BY_NAME.get(normalized(name))


def field_like(name: str) -> str | None:
    """The API field that `name` was probably meant to be, for error messages."""
    plain = normalized(name)
    if plain in _SUGGESTED:
        return _SUGGESTED[plain]
    near = nearest(plain, _BY_NAME)
    return _BY_NAME[near] if near else None
