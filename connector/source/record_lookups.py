"""Looking at single rows by their id: what a list doesn't show may be there all the same."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Any

from connector.api.client import ApiClient
from connector.errors import Redirected, Refused, Unauthorized, UnexpectedAnswer, Unreachable
from connector.logs import get_logger
from connector.source.fields import record_id as id_of

LOOK_AT_MOST = 50
PATIENCE_S = 5.0  # for one row: one that the server can't show must not hold up the others
PATIENCE_LEAST_S = 1.0  # and each that it can't show leaves less for the next
FAILURES_MAX = 5  # in a row: then the server is in trouble, and the rest waits for the next pull
_GONE = (404, 410)
_NO_SUCH_CALL = 405
log = get_logger("source")


class Found(StrEnum):
    """What became of a row. UNDECIDED: the API neither shows it nor says that there is none.

    UNASKED: nor was it asked, since too many were in vain. UNASKABLE: there is no call for single
    records, so the list alone decides.
    """

    ALIVE = "alive"
    GONE = "gone"
    UNDECIDED = "undecided"
    UNASKED = "unasked"
    UNASKABLE = "unaskable"


class LookUps:
    """Single records of one resource. warnings: by sentence, how many couldn't be looked at."""

    def __init__(self, client: ApiClient, resource: str) -> None:
        self._client, self._resource = client, resource
        self._failures = self._vain = 0
        self.warnings: Counter[str] = Counter()

    def look(self, record_id: str) -> tuple[Found, dict[str, Any] | None]:
        """Whether the record exists, and the record where it does.

        Raises:
            Unauthorized: the key is refused altogether (401).
            BudgetError, Interrupted: as ApiClient.
        """
        if self._failures >= FAILURES_MAX:
            return self._undecided("too many look-ups failed in a row", Found.UNASKED)
        patience_s = max(PATIENCE_LEAST_S, PATIENCE_S / (1 + self._vain))
        try:
            record = self._client.record(self._resource, record_id, patience_s=patience_s)
        except ValueError:  # an id that no address can hold
            return self._undecided("its id can't be asked for")
        except Refused as error:
            return self._refused(error)
        except Unauthorized as error:
            if error.status == 401:
                raise
            return self._undecided(f"the API answers {error.status}")
        except UnexpectedAnswer as error:
            self._vain += 1
            return self._undecided(f"the API answers {error.status} without the record")
        except (Unreachable, Redirected) as error:
            self._failures += 1
            self._vain += 1
            log.info("source.look_failed", resource=self._resource, error=type(error).__name__)
            return self._undecided("the API gives no usable answer")
        self._failures = 0
        if record is None:
            return Found.GONE, None
        if id_of(record) != record_id:
            return self._undecided("the API answers with something else")
        return Found.ALIVE, record

    def _refused(self, error: Refused) -> tuple[Found, None]:
        self._failures = 0
        if error.status in _GONE:
            return Found.GONE, None
        if error.status == _NO_SUCH_CALL:
            return Found.UNASKABLE, None
        return self._undecided(f"the API answers {error.status}")

    def _undecided(self, why: str, found: Found = Found.UNDECIDED) -> tuple[Found, None]:
        self.warnings[f"left the list and can't be looked at, so it stays as it is: {why}"] += 1
        return found, None
