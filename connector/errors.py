"""Every error the connector raises, in one tree.

    ConnectorError                 .transient: may the same call succeed later, unchanged?
    ├── UsageError                 exit 2: nothing was sent
    │   └── ConfigurationError       a setting is missing, unknown or unusable
    ├── AlreadyRunning             exit 75: another run holds the lock; try later
    ├── Interrupted                exit 130/143: stopped by a signal at a safe point
    └── RunError                   exit 1: the run didn't finish, nothing is lost
        ├── Unexpected               a bug in the connector
        ├── ApiError                 the API, or the connection to it
        ├── BudgetError              the ledger that paces requests
        └── DestinationError         where rows are written

Each message says what happened, where, and what to do next; the facts behind it are attributes.
"""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence

_SHOWN_COLUMNS = 20

MESSAGE_MAX = 8000  # characters; the last part of a message says what to do
NAME_MAX = 80
_LINE_ENDS = dict.fromkeys(map(ord, "\r\v\f\x85\u2028\u2029"), " ")
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, C1
    "\u2028-\u202e\u2066-\u2069"  # line separators, overrides of direction
    "\ud800-\udfff]"  # lone surrogates, which no output can hold
)


def printable(text: str) -> str:
    """`text` without characters that control a terminal or disguise a line. Text from servers and
    files passes through here before it is shown or stored; errors and `logs.redact` call it."""
    if not _UNPRINTABLE.search(text):
        return text
    return _UNPRINTABLE.sub(_instead, text)


def _instead(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\u{code:04x}" if 0xD800 <= code <= 0xDFFF else _LINE_ENDS.get(code, "")


def quoted(name: str) -> str:
    """A name from a file or a server, quoted and shortened for a message."""
    return repr(printable(name if len(name) <= NAME_MAX else name[: NAME_MAX - 1] + "…"))


def bounded(text: str) -> str:
    """`text`, with its middle left out if it is longer than a message may be."""
    if len(text) <= MESSAGE_MAX:
        return text
    return f"{text[: MESSAGE_MAX * 3 // 4]} … {text[-(MESSAGE_MAX // 4) :]}"


class ConnectorError(Exception):
    """Root of the tree. Messages are printable and bounded, whatever they quote.

    exit_code: of a command that ends with this error. transient: the same call may succeed later,
    unchanged. quotes: the message may quote a header, a cell, a query or the server's answer, so
    alerts, which other people read, leave it out.
    """

    exit_code = 1
    transient = False
    quotes = False

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(bounded(message)))


class UsageError(ConnectorError):
    """The command or its input can't be used as given; nothing was sent."""

    exit_code = 2


class ConfigurationError(UsageError):
    """A setting is missing, unknown or has a value that can't be used."""


class AlreadyRunning(ConnectorError):
    """Another run holds a lock."""

    exit_code = 75
    transient = True

    def __init__(self, *, lock: str, holder: str) -> None:
        self.lock, self.holder = lock, holder
        super().__init__(
            f"Another run holds {lock}: {holder}. Nothing was done; try again when it has ended."
        )


class Interrupted(ConnectorError):
    """A signal asked to stop, and the run stopped at a safe point."""

    transient = True

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
        super().__init__(
            "Stopped by a signal. What was fetched or sent is kept; run the command again to "
            "resume."
        )


def status_of(error: BaseException | None) -> str:
    """The status of a run that ended with `error`: `ok`, `stopped` (by a signal) or `failed`."""
    if error is None:
        return "ok"
    return "stopped" if isinstance(error, Interrupted) else "failed"


class RunError(ConnectorError):
    """The run didn't finish. Nothing is lost."""


class Unexpected(RunError):
    """An exception of another kind. kind: its type. where: the innermost line of our code. Its own
    message is never shown, since it may quote a row."""

    def __init__(self, error: BaseException, *, doing: str = "") -> None:
        self.kind, self.where, self.doing = type(error).__name__, _our_line(error), doing
        location = f"{self.where}{doing and f' while {doing}'}"
        refused = _refused_by_system(error)
        super().__init__(
            f"Unexpected {self.kind} at {location}. This is a bug in the connector; nothing is "
            "lost. The exception's own message is left out, since it may quote your data. Run the "
            "command again with -v and report the traceback, which contains no data."
            if refused is None
            else f"The operating system refused an operation at {location}: {refused}. Nothing is "
            "lost. Fix the cause on this machine (disk space, permissions, open files, memory), "
            "then run the command again."
        )
        self.__cause__ = error


_SHORT_OF = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EROFS}
)


def _refused_by_system(error: BaseException) -> str | None:
    """The operating system's own message, which contains no data, if it caused `error`. Behind an
    error that a library raised, only a shortage of some resource counts."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    cause: BaseException | None = error
    for _ in range(20):
        if isinstance(cause, OSError) and cause.errno in _SHORT_OF:
            return os.strerror(cause.errno)
        if isinstance(cause, MemoryError):
            return os.strerror(errno.ENOMEM)
        if isinstance(cause, RuntimeError) and str(cause) == "can't start new thread":
            return "no more threads can be started"
        if cause is None:
            break
        cause = cause.__cause__ or cause.__context__
    return None


def _our_line(error: BaseException) -> str:
    """`module:line` of the innermost frame that is the connector's own."""
    names = [
        f"{frame.f_globals.get('__name__', '?')}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    ours = [name for name in names if name.startswith(("connector.", "pipelines."))]
    return (ours or names or ["an unknown line"])[-1]


class ApiError(RunError):
    """The API, or the connection to it, failed."""

    quotes = True


class BudgetError(RunError):
    """The ledger that paces requests failed; nothing is ever sent unpaced."""


class DestinationError(RunError):
    """The destination can't be read or written."""


class WorkingFileFailed(DestinationError):
    """DuckDB failed on the working file; the next run checks it."""

    def __init__(self, *, path: str, reason: str) -> None:
        self.path = path
        super().__init__(
            f"{path}: the working file, or the folder it is copied to, can't be used ({reason}). "
            "Run the command again: the next run checks the whole file first and, if it is "
            "damaged, sets it aside and rebuilds it from its readable part, the published copy "
            "and the API."
        )


class DestinationRefused(DestinationError):
    """The destination refuses these rows, and would refuse them again."""

    def __init__(self, *, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"The destination refused rows: {reason}. The next run reads them again, and rows "
            "loaded before them are kept. Undo manual changes to its tables (a column's type, a "
            "constraint, a trigger), or leave the field out with exclude_columns in "
            "[pull.<resource>]."
        )


class DestinationLocked(DestinationError):
    """Another session locks the tables. blockers: in words, where known. pids: on the server."""

    def __init__(self, *, blockers: Sequence[str], pids: Sequence[int], waited_s: float) -> None:
        self.blockers, self.pids, self.waited_s = tuple(blockers), tuple(pids), waited_s
        who = "; ".join(self.blockers) or "the server doesn't say which"
        end = " or ".join(f"SELECT pg_terminate_backend({pid})" for pid in self.pids)
        way = f", or end it on the server: {end}" if end else ""
        super().__init__(
            f"The destination's tables have been locked by another session for {waited_s:.0f} s: "
            f"{who}. Nothing is lost: rows loaded so far are kept. Commit or roll back that "
            f"session's transaction{way}. Then run the command again."
        )


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`; None if none is close."""
    if len(name) > NAME_MAX:  # comparing two long texts takes the square of their length
        return None
    import difflib  # not by every command

    short = [each for each in known if len(each) <= NAME_MAX]
    matches = difflib.get_close_matches(name, short, n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'tasks'?`, for the end of a sentence; empty if no known name is like it."""
    like = nearest(name, known)
    return f" Did you mean {like!r}?" if like else ""


# --- settings -------------------------------------------------------------------------------


class UnknownSetting(ConfigurationError):
    """A setting that the connector doesn't know."""

    def __init__(
        self,
        *,
        name: str,
        location: str,
        nearest: str | None,
        advice: str = "Remove it, or see config/hiringcenter.example.toml.",
    ) -> None:
        self.name, self.location, self.nearest = name, location, nearest
        hint = f" Did you mean {quoted(nearest)}?" if nearest else ""
        super().__init__(f"{location}: unknown setting {quoted(name)}.{hint} {advice}")


class BadSetting(ConfigurationError):
    """A setting whose value can't be used. reason: never quotes the value."""

    def __init__(self, *, name: str, location: str, reason: str) -> None:
        self.name, self.location, self.reason = name, location, reason
        super().__init__(f"{location}: {name}: {reason}")


class UnknownAccount(UnknownSetting):
    """An account that the settings don't have."""

    def __init__(self, *, name: str, known: Iterable[str]) -> None:
        self.known = tuple(known)
        super().__init__(
            name=f"accounts.{name}", location="--account", nearest=nearest(name, self.known)
        )
        listed = ", ".join(self.known)
        self.args = (
            f"--account {name}: there is no such account. "
            + (f"Accounts: {listed}." if listed else "The settings have no [accounts.<name>]."),
        )


class UntrustedFile(ConfigurationError):
    """A settings file in the working folder that another user may have written."""

    def __init__(self, *, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(
            f"{path} can't be trusted: {reason}, and a settings file can redirect the API key. If "
            "it is yours, fix its owner and mode (chown, chmod go-w), or name its folder with "
            "--project."
        )


class StateConflict(ConfigurationError):
    """Two state directories both record what was sent. old: the one from version 0.1."""

    def __init__(self, *, old: str, new: str) -> None:
        self.old, self.new = old, new
        super().__init__(
            f"Two state directories hold runs and sent rows: {old} (from version 0.1) and {new}. "
            "They can't be merged, since each hashes contacts with its own secret. If they belong "
            f"to different API keys, keep both: put HIRINGCENTER_STATE_DIR={old} into this "
            "project's .env. If they belong to one key, keep the one with the newer pushes: to "
            f"keep {new}, rename {old} to {old}.old, then run the next push with --new-ledger, "
            "which looks people up in HiringCenter before it writes."
        )


class CopyOfAnother(ConfigurationError):
    """Another installation publishes to this path. age_s: seconds since it last did."""

    def __init__(self, *, path: str, age_s: float) -> None:
        self.path, self.age_s = path, age_s
        ago = f"{age_s / 3600:.0f} h" if age_s >= 5400 else f"{age_s / 60:.0f} min"
        super().__init__(
            f"{path}: another installation (another user, machine or state directory) published "
            f"this copy {ago} ago; two that publish to one path overwrite each other's work. Set "
            "HIRINGCENTER_DUCKDB_PATH to a path of your own, or share its ledger "
            "(HIRINGCENTER_LEDGER_URL), or, if the other one no longer exists, take the copy over: "
            "hiringcenter pull --take-over"
        )


class OtherAccount(ConfigurationError):
    """The destination has the rows of another account. landed, asked: their ids, or the hosts of
    their APIs where those don't name an account. why: what the work would have done, and hasn't."""

    def __init__(
        self,
        *,
        landed: str,
        asked: str,
        why: str = "a pull would flag all of those rows deleted. Nothing was loaded",
    ) -> None:
        self.landed, self.asked = landed, asked
        super().__init__(
            f"The destination has the rows of {landed}, and this API key belongs to {asked}: "
            f"{why}. Give each account a "
            "place of its own (HIRINGCENTER_DATASET, HIRINGCENTER_DUCKDB_PATH or "
            "HIRINGCENTER_DESTINATION), or correct HIRINGCENTER_API_KEY or HIRINGCENTER_BASE_URL; "
            "or, if the new account is to replace the other one there: "
            "hiringcenter pull --take-over"
        )


class MissingKey(ConfigurationError):
    """No API key is configured. variable: the environment variable for it. accounts: those to
    choose from instead. searched: where else we looked."""

    def __init__(
        self,
        variable: str = "HIRINGCENTER_API_KEY",
        accounts: Iterable[str] = (),
        *,
        searched: str = "",
    ) -> None:
        self.variable, self.accounts, self.searched = variable, tuple(accounts), searched
        if self.accounts:
            first = self.accounts[0]
            super().__init__(
                f"Accounts: {', '.join(self.accounts)}. Add --account {first} or --all-accounts."
            )
            return
        super().__init__(
            f"No API key: {variable} is not set{searched and f' (looked in {searched})'}. Create a "
            "key in HiringCenter under Settings -> API / Webhooks -> Add API Key, then put "
            f"{variable}=<your key> into the environment or into .env. "
            "To try the connector without a key, use the local mock API: `make sync`, or "
            "`hiringcenter sandbox`."
        )


# --- api ------------------------------------------------------------------------------------


class Unauthorized(ApiError):
    """401: the key is wrong or inactive (exit 2: fix the settings); 403: it lacks a permission."""

    def __init__(self, *, status: int, url_path: str, reason: str) -> None:
        self.status, self.url_path = status, url_path
        self.exit_code = 2 if status == 401 else 1
        what = "The API key was refused" if status == 401 else "The API key lacks permission"
        super().__init__(
            f"{what} ({status} at {url_path}: {reason.rstrip('.')}). Check HIRINGCENTER_API_KEY "
            "(or the variable that the account names), and the key's permissions in HiringCenter "
            "under Settings -> API / Webhooks."
        )


class InactiveKey(ConfigurationError):
    """The API reports that the key is inactive."""

    def __init__(self) -> None:
        super().__init__(
            "The API key is inactive, so no data was requested. Activate it in HiringCenter under "
            "Settings -> API / Webhooks, or set HIRINGCENTER_API_KEY to another key."
        )


class Refused(ApiError):
    """Another 4xx, or a write answered `success: false`: the API understood, and refused."""

    def __init__(self, *, status: int, url_path: str, reason: str) -> None:
        self.status, self.url_path, self.reason = status, url_path, reason
        if status == 404:
            reason = f"{reason.rstrip('.')}. Check HIRINGCENTER_BASE_URL."
        super().__init__(f"The API refused {url_path} ({status}): {reason}")


class Redirected(ApiError):
    """3xx: never followed, so that the key is sent nowhere else."""

    def __init__(self, *, status: int, url_path: str, target: str) -> None:
        self.status, self.url_path, self.target = status, url_path, target
        super().__init__(
            f"{url_path} redirects ({status}) to {target}. Redirects are not followed, so that "
            "the key is sent nowhere else. If that is the API's new address, set "
            "HIRINGCENTER_BASE_URL to it; if it is a login page, sign in to the network first."
        )


class UnexpectedAnswer(ApiError):
    """The API's answer isn't in a known format. A POST may have been applied anyway."""

    def __init__(self, *, status: int, url_path: str, reason: str) -> None:
        self.status, self.url_path, self.reason = status, url_path, reason
        super().__init__(
            f"The answer from {url_path} ({status}) can't be used: {reason}. No rows are taken "
            "from it. Check HIRINGCENTER_BASE_URL; if it is right, the API may have changed: look "
            "for a newer version of the connector."
        )


class UntrustedServer(ApiError):
    """TLS certificate verification failed, so the key was not sent."""

    def __init__(self, *, host: str, reason: str) -> None:
        self.host, self.reason = host, reason
        super().__init__(
            f"{host}: TLS certificate verification failed ({reason}), so the key was not sent. "
            "Behind a company proxy that inspects TLS, point SSL_CERT_FILE at the company's "
            "certificates."
        )


class Unreachable(ApiError):
    """No usable answer within the retry budget. last: the last failure. sent: how many of the tries
    left this machine (None: all); with 0, a POST certainly wasn't applied."""

    transient = True

    def __init__(
        self, *, url_path: str, tries: int, tried_s: float, last: str, sent: int | None = None
    ) -> None:
        self.url_path, self.tries, self.tried_s, self.last = url_path, tries, tried_s, last
        self.sent = tries if sent is None else sent
        super().__init__(
            f"No usable answer from {url_path} after {tries} tries in {tried_s:.0f} s; the last "
            f"failure: {last}. Nothing is lost. Check the network and HIRINGCENTER_BASE_URL, then "
            "run the command again."
        )


# --- source ---------------------------------------------------------------------------------


class EndlessList(ApiError):
    """The pages of a list repeat, or stay empty, endlessly."""

    def __init__(self, *, resource: str, reason: str) -> None:
        self.resource, self.reason = resource, reason
        super().__init__(
            f"GET /{resource} does not end: {reason}. What was read is kept, and nothing was "
            "flagged deleted. Run the pull again; if this happens again, report it to "
            "HiringCenter's support."
        )


class UnreachablePages(ApiError):
    """A list has more pages than can be requested."""

    def __init__(self, *, resource: str, reason: str) -> None:
        self.resource, self.reason = resource, reason
        super().__init__(
            f"GET /{resource} can't be read to its end: {reason}. What was read is kept, and "
            "nothing was flagged deleted. Look for a newer version of the connector; the API may "
            "have changed."
        )


class ExpiringPages(ApiError):
    """Page tokens expire before the next page can be requested."""

    transient = True

    def __init__(self, *, resource: str, restarts: int) -> None:
        self.resource, self.restarts = resource, restarts
        super().__init__(
            f"GET /{resource}: page tokens expired before the next page could be requested; the "
            f"list was restarted {restarts} times and got no further. What was read is kept. "
            "Run the pull again when the API is less busy."
        )


# --- input of a push ------------------------------------------------------------------------


class InputError(UsageError):
    """A file, table or mapping that can't be pushed as it is; none of it was sent.

    location: the file or table, as shown to people. line: from 1, as an editor or a spreadsheet
    counts; None for the whole input.
    """

    quotes = True

    def __init__(self, *, location: str, reason: str, line: int | None = None) -> None:
        self.location, self.reason, self.line = location, reason, line
        where = location if line is None else f"{location}: line {line}"
        super().__init__(f"{where}: {reason}")


class InputChanged(InputError):
    """The input changed while it was being read; nothing was sent. Exit 1, since another try may
    succeed."""

    exit_code = 1
    transient = True
    quotes = False

    def __init__(self, *, location: str) -> None:
        super().__init__(
            location=location,
            reason="changed while it was being read, so its rows may come from two versions. "
            "Nothing was sent. Run the push again when no program is writing to the file.",
        )


class EncodingGuessed(InputError):
    """Words depend on an encoding that was only guessed; nothing was sent.

    codec: the guess. The notes (PEP 678) are the readings to choose from. They quote cells, so only
    the terminal shows them.
    """

    quotes = False

    def __init__(self, *, location: str, codec: str, readings: Iterable[str]) -> None:
        self.codec = codec
        super().__init__(
            location=location,
            reason=f"its encoding is unknown, and words depend on it ({codec} is a guess). Nothing "
            "was sent. Compare how the cells read (--dry-run shows them too), then push with "
            "--encoding NAME (`encoding` in a push job).",
        )
        for reading in readings:
            self.add_note(reading)


class UnknownColumn(InputError):
    """Columns that match no field of the API: the first, with the field it resembles, and others.

    is_only: it is the file's only column, so the delimiter may be another one.
    """

    def __init__(
        self,
        *,
        location: str,
        column: str,
        nearest: str | None,
        is_only: bool = False,
        others: Sequence[tuple[str, str | None]] = (),
    ) -> None:
        self.column, self.nearest, self.others = column, nearest, tuple(others)
        if others:
            names = listed_columns([(column, nearest), *others])
            found = f"{len(others) + 1} columns match no field of the API: {names}."
        else:
            hint = f" Did you mean {nearest!r}?" if nearest else ""
            found = f"column {quoted(column)} matches no field of the API.{hint}"
        if is_only:
            found += " It is the only column; if the file has several, pass its --delimiter."
        them = "them" if others else "it"
        super().__init__(
            location=location,
            reason=f"{found} Rename {them}, map or ignore {them} in a mapping file (--mapping), or "
            "pass --ignore-unknown.",
        )


class NoHeader(UnknownColumn):
    """The first row doesn't name columns. Its cells aren't quoted: they may be personal data.

    lengths: of its cells, in characters. data_in: the first cell that looks like a value, from 1.
    matched: how many cells name a field. near: position → the field that the cell resembles.
    """

    def __init__(
        self,
        *,
        location: str,
        lengths: Sequence[int],
        data_in: int | None,
        is_only: bool = False,
        matched: int = 0,
        near: Mapping[int, str] | None = None,
    ) -> None:
        self.lengths, self.data_in = tuple(lengths), data_in
        self.column, self.nearest, self.others = "", None, ()
        shown = ", ".join(map(str, self.lengths[:_SHOWN_COLUMNS]))
        shown += ", …" if len(self.lengths) > _SHOWN_COLUMNS else ""
        count = f"{matched or 'none'} of its {len(self.lengths)} columns"
        found = f"{count} ({shown} characters) names a field of the API."
        if len(self.lengths) == 1:
            found = "its first row names no field of the API."
        if near:
            like = [f"column {position} resembles {field!r}" for position, field in near.items()]
            found += f" It may still be a header: {', '.join(like[:_SHOWN_COLUMNS])}."
        if data_in is not None:
            found = f"the first row looks like data (column {data_in}), not like column names."
        if is_only:
            found += " It is the only column; if the file has several, pass its --delimiter."
        InputError.__init__(
            self,
            location=location,
            reason=f"{found} Add a header row above it, such as First Name, Last Name, Email; or "
            "map the columns in a mapping file (--mapping).",
        )


def listed_columns(columns: Sequence[tuple[str, str | None]]) -> str:
    """Columns with the field each resembles; those that resemble one come first."""
    ordered = sorted(columns, key=lambda each: each[1] is None)
    shown = [
        quoted(column) + (f" (did you mean {near!r}?)" if near else "")
        for column, near in ordered[:_SHOWN_COLUMNS]
    ]
    if more := len(ordered) - _SHOWN_COLUMNS:
        shown += [f"and {more} more"] if more > 0 else []
    return ", ".join(shown)


class DoubledColumn(InputError):
    """Two columns for one field, or with one name. field: what both stand for. positions: from 1,
    given instead of the name where that may be personal data."""

    def __init__(
        self,
        *,
        location: str,
        columns: tuple[str, str],
        field: str,
        line: int | None = None,
        positions: tuple[int, int] | None = None,
    ) -> None:
        self.columns, self.field, self.positions = columns, field, positions
        reason = f"two columns are called {quoted(field)}. Rename or remove one."
        if positions is not None:
            reason = (
                f"columns {positions[0]} and {positions[1]} have the same name "
                f"({len(field)} characters). Rename or remove one; if this row is data, add a "
                "header row above it."
            )
        if columns[0] != columns[1]:
            reason = (
                f"columns {quoted(columns[0])} and {quoted(columns[1])} both stand for {field!r}. "
                "Remove one, or name it under `ignore` in a mapping file (--mapping)."
            )
        super().__init__(location=location, line=line, reason=reason)


class BadMapping(InputError):
    """A mapping file that can't be used."""


# --- budget ---------------------------------------------------------------------------------


class LedgerUnusable(BudgetError):
    """The ledger can't be read or written. ledger: without its password."""

    def __init__(self, *, ledger: str, reason: str, action: str) -> None:
        self.ledger, self.reason, self.action = ledger, reason, action
        super().__init__(
            f"The ledger {ledger} {reason}. Without it nothing is sent, so nothing is lost. "
            f"{action}"
        )


class LedgerDamaged(LedgerUnusable):
    """The ledger's file can't be read as a database, or only in part."""


class LedgerTooNew(BudgetError):
    """A newer connector wrote the ledger. found, known: versions of the component's tables."""

    def __init__(self, *, component: str, found: int, known: int) -> None:
        self.component, self.found, self.known = component, found, known
        super().__init__(
            f"The ledger's {component} tables have version {found}, and this connector knows only "
            f"versions up to {known}. Update the connector on this machine."
        )


class BudgetClosed(BudgetError):
    """A permit was requested from a closed budget: a bug in the calling program."""

    def __init__(self) -> None:
        super().__init__("The budget is closed. Open a new one to send requests.")


# --- outbox ---------------------------------------------------------------------------------


class InboxFull(BudgetError):
    """More people wait to be looked up than `webhooks.waiting_max`. waiting: how many."""

    transient = True

    def __init__(self, *, waiting: int) -> None:
        self.waiting = waiting
        super().__init__(
            f"{waiting:,} people named by events are waiting to be looked up, so no more events "
            "are accepted. Is `hiringcenter webhooks drain` or `hiringcenter pull` running?"
        )


class OutboxLost(UsageError):
    """The ledger's outbox, which records what was sent, is missing or was replaced. reason: a
    predicate, such as "has vanished"."""

    def __init__(self, *, outbox: str, reason: str) -> None:
        self.outbox, self.reason = outbox, reason
        super().__init__(
            f"The outbox {outbox} {reason}. It records what was sent; without it, everything would "
            "be sent again, so nothing more is sent. If the ledger is kept elsewhere, set "
            "HIRINGCENTER_LEDGER_URL to it. If the outbox was moved or is in a backup, put it "
            "back. Otherwise add --new-ledger, which starts a new one and looks people up in "
            "HiringCenter before it writes."
        )


class PlanRefused(UsageError):
    """A plan file that isn't applied. reason: a predicate, such as "isn't a plan"."""

    def __init__(self, plan: str, reason: str) -> None:
        self.plan, self.reason = plan, reason
        super().__init__(f"{plan} {reason}")


class OutboxConflict(RunError):
    """A write isn't in the state in which this run left it."""

    def __init__(self, *, row_number: int, expected: str, wanted: str) -> None:
        self.row_number, self.expected, self.wanted = row_number, expected, wanted
        super().__init__(
            f"Row {row_number} is no longer {expected} in the outbox, so it can't become {wanted}: "
            "another run changed it, or the ledger was restored from a copy. Nothing was sent "
            "twice; run the push again."
        )


class TooManyChanges(UsageError):
    """More rows would be sent than allowed."""

    def __init__(self, *, changes: int, allowed: int) -> None:
        self.changes, self.allowed = changes, allowed
        super().__init__(
            f"{changes} row{'s' * (changes != 1)} would be sent, but --max-changes allows "
            f"{allowed}. Nothing was sent. Review them with --dry-run, then push with a higher "
            "--max-changes."
        )
