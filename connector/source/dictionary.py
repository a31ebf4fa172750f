"""The dictionary: what each table and column holds, in a few words.

`hiringcenter columns` prints it, databases get it as comments, and docs/reference/tables.md has the
same words (a test compares). The names of columns and their types are elsewhere, with what fills
them: in `fields` for the lists, in `pipelines.pull.run_tables` for the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from connector.source.fields import (
    CONTRACT,
    DELETED_COLUMN,
    HASH_COLUMN,
    MORE_COLUMN,
    SEEN_COLUMN,
    UNLISTED_COLUMN,
)
from connector.source.row_maker import column_name

UNNAMED = "not in the contract: a field that the API returns and its reference doesn't name"
_HISTORY = "_history"
_VARIANT = re.compile(r"(.+)__v_([a-z]+)")

TABLES: Mapping[str, str] = {
    "prospects": "people in the pipeline, one row each",
    "notes": "notes about prospects, one row each",
    "tasks": "tasks, one row each",
    "meetings": "meetings with prospects, one row each",
    "account": "what the API reports of the key, in one row; never the key itself",
    "_hc_runs": "one row per run, of whatever kind; all drains of a day are one",
    "_hc_freshness": "one row per resource: how old it is, and how it was last scanned",
    "_hc_push_results": "one row per input row of each push: its outcome",
    "_hc_malformed_records": "records without a usable id",
}

_OF_EVERY_LIST: Mapping[str, str] = {
    DELETED_COLUMN: (
        "null, or the time when a complete scan first didn't find the row, or a look-up by its id "
        "answered 404; the other columns stay. Null again if the row comes back"
    ),
    UNLISTED_COLUMN: "gone from its list (archived, say), but still readable by its id",
    HASH_COLUMN: "hash of the record's content; changes when the record does",
    SEEN_COLUMN: "when the last scan that found the row began",
    MORE_COLUMN: "fields that can't be columns here, as JSON by their API names",
    "_dlt_id": "dlt's id of the row",
    "_dlt_load_id": "dlt's load that brought the row",
}
_OF_HISTORIES: Mapping[str, str] = {
    "_hc_valid_from": (
        "when a pull requested the row and got this version; versions of a row join without gap or "
        "overlap"
    ),
    "_hc_valid_to": (
        "the _hc_valid_from of the next version, or when the row was found deleted; null: this is "
        "what the row is now"
    ),
    "_hc_changed_after": "when the former version was last seen; null in the first one",
    "_hc_changed_before": "when this version had been received for the first time",
    "_hc_hidden": (
        "JSON of what exclude_columns and hash_columns kept out of this version; null: nothing; ?: "
        "unknown, since the row was there before its history"
    ),
}

_OF_RECORDS: Mapping[str, str] = {
    "id": "the record's id",
    "prospectId": "whom it is about",
    "userId": "the user whose it is",
    "createdAt": "when it was created",
    "updatedAt": "when it was last edited",
    "createdBy": "the user who created it",
    "createdByApi": "whether it was created through the API",
    "createdByApiKeyId": "id of the API key that created it",
    "createdByApiKeyName": "name of that key",
}
_FIELDS: Mapping[str, Mapping[str, str]] = {
    "prospects": {
        "firstName": "first name",
        "lastName": "last name",
        "email": "email address",
        "phone": "phone number, as the API returns it",
        "currentStage": "name of the stage",
        "currentStageId": "id of the stage",
        "labels": "list of text",
        "title": "job title",
        "company": "company",
    },
    "notes": {
        "userId": "who wrote it",
        "body": "HTML",
        "mentions": "list of objects: who is mentioned",
        "pin": "whether it is pinned",
        "fileUrl": "address of the attached file",
    },
    "tasks": {
        "task": "what to do",
        "assignedTo": "the user who is to do it",
        "assignedBy": "the user who assigned it",
        "dueAt": "when it is due",
        "completedAt": "when it was completed; null: open",
    },
    "meetings": {
        "prospectId": "whom it is with",
        "meetingDate": "when it takes place",
        "timeZone": "IANA name of its time zone",
        "meetingType": "kind of meeting",
        "ownerId": "the user whose meeting it is",
        "location": "where it takes place",
        "notes": "text about it",
    },
}
_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "account": {
        "id": "id of the account",
        "active": "whether the key is active",
        "permissions": "what the key may do",
        "details": "what else the API reports, without what could be a secret",
        HASH_COLUMN: "hash of the row's content",
        DELETED_COLUMN: "always null",
    },
    "_hc_runs": {
        "run_id": "also on every log line of the run",
        "kind": "pull, push, apply, undo, forget, verify or drain",
        "status": "ok, failed or stopped",
        "started_at": "when the run began",
        "finished_at": "when it ended",
        "requests": "requests sent to the API",
        "rows_read": "of all resources",
        "rows_written": "new or changed rows",
        "rows_deleted": "rows flagged deleted",
        "resources": "the same counts per resource",
        "summary": "the run's JSON summary",
        "error": "what ended it early",
    },
    "_hc_freshness": {
        "resource": "the list",
        "run_id": "the last pull",
        "scan": "full, head, open, window or events",
        "reason": "why that scan",
        "rows": "rows that aren't deleted",
        "last_pull_at": "when the last scan that ended began",
        "last_complete_at": "the last scan that was proven complete",
        "complete": "whether the last scan was; null: not a full one",
        "why_incomplete": "why it isn't proven complete",
        "last_event_at": "the last event about one of its rows; null: none was received",
        "event_miss_rate": "the part of the changes that events had missed, by the last full scan",
    },
    "_hc_push_results": {
        "run_id": "the push",
        "row_number": "row of the input; the header is row 1",
        "status": "created, updated, unchanged, rejected or failed",
        "prospect_id": "the prospect, where it is known",
        "message": "why, or a warning",
        "pushed_at": "when the row was settled",
        "record_kind": "prospects; notes, tasks or meetings where the push was of these",
        "record_id": "id of that record, where it is known",
        "changed_fields": "list of the fields that were sent; null: none",
        "kept_fields": "list of the fields that were kept as HiringCenter has them; null: none",
    },
    "_hc_malformed_records": {
        "id": "hash of the content",
        "resource": "the list that it was in",
        "content": "what the API sent",
    },
}


def table_text(table: str) -> str | None:
    """What a table holds; None if it isn't one of ours."""
    of = table.removesuffix(_HISTORY)
    if of != table and of in CONTRACT:
        return f"one row per version of {of} that a pull has seen"
    return TABLES.get(table)


def column_text(table: str, column: str) -> str | None:
    """What a column holds; None if nothing names it: a field that the API's reference lacks."""
    known = _known_columns(table)
    if (text := known.get(column) or _OF_EVERY_LIST.get(column)) is not None:
        return text
    variant = _VARIANT.fullmatch(column)
    if variant is None or variant[1] not in known:
        return None
    return f"values of {variant[1]} that are of another type: {variant[2]}"


@cache
def _known_columns(table: str) -> Mapping[str, str]:
    of = table.removesuffix(_HISTORY)
    known = {**_COLUMNS.get(table, {}), **({} if of == table else _OF_HISTORIES)}
    if of in CONTRACT:
        named = {**_OF_RECORDS, **_FIELDS[of]}
        known |= {column_name(field): named[field] for field in CONTRACT[of]}
    return known


def comments(table: str, columns: Iterable[str]) -> Iterator[tuple[str | None, str]]:
    """(column, comment) of the table itself (None) and of each column; nothing of a table that
    isn't one of ours."""
    about = table_text(table)
    if about is None:
        return
    yield None, about
    for name in columns:
        yield name, column_text(table, name) or UNNAMED
