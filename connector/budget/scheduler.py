"""The budget as the rest of the project sees it: permits, what became of them, and the outlook."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from connector.budget import Lane, Permit
from connector.budget.clockrules import ledger_clock, steady_clock
from connector.budget.database import Database
from connector.budget.dispatcher import Dispatcher
from connector.budget.keys import key_id
from connector.budget.ledger import Ledger
from connector.budget.policy import readings
from connector.budget.policy.windows import Limits, windows_of
from connector.budget.report import BudgetState, Eta, Reporter
from connector.budget.waiting import Mail
from connector.clock import Clock, SteadyClock, SystemClock


class RateBudget:
    """Hands out permits for one API key to any number of threads; see `connector.budget.Budget`.

    limits: the windows that this process was configured with.
    request_timeout_s: the total time one request may take, from sending to its answer.
    stop: when set, callers that wait get Interrupted (`stop.number`: the signal's number).

    Raises:
        BudgetError: the ledger can't be opened.
    """

    def __init__(
        self,
        database: Database,
        *,
        api_key: str,
        limits: Sequence[Limits],
        request_timeout_s: float,
        clock: Clock | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._windows = windows_of(limits)
        key = key_id(api_key, database)
        time_source = ledger_clock(database, self._clock)
        self._ledger = Ledger(
            database,
            key=key,
            owner=uuid.uuid4().hex,
            clock=time_source,
            windows=self._windows,
            request_timeout_s=request_timeout_s,
        )
        self.steady_clock: SteadyClock = steady_clock(database, time_source, self._clock)
        """The ledger's clock: what decides about a write uses no other."""
        self._reporter = Reporter(database, key=key, clock=time_source, windows=self._windows)
        self._dispatcher = Dispatcher(self._ledger, self._clock, stop)

    def permit(self, lane: Lane) -> Permit:
        """Block until one request may go out.

        Raises:
            BudgetError: the ledger can't be used; nothing may be sent.
            Interrupted: `stop` was set.
        """
        return self._dispatcher.permit(lane)

    def answered(self, permit: Permit, status: int, headers: Mapping[str, str]) -> None:
        """The answer's head arrived. headers: names in lower case."""
        reading = readings.parse(
            status,
            headers,
            wall_s=self._clock.now_s(),
            longest_s=self._windows[-1].length_s,
        )
        self._dispatcher.post(Mail(answers=[(permit.id, self._clock.monotonic_s(), reading)]))

    def unanswered(self, permit: Permit) -> None:
        """No answer will come; the permit counts until its deadline."""
        self._dispatcher.post(Mail(unanswered=[permit.id]))

    def unsent(self, permit: Permit) -> None:
        """The request certainly never left this process; the permit is given back."""
        self._dispatcher.post(Mail(unsent=[permit.id]))

    @property
    def waited_s(self) -> float:
        """Seconds during which somebody waited for a permit; several at once count once."""
        return self._dispatcher.waited_s

    def pull_started(self, expected: int | None = None) -> None:
        """A pull begins here: pushes leave it room. expected: how many requests it will need."""
        self._ledger.pull_started(expected)

    def pull_ended(self, requests: int) -> None:
        """The pull has ended after so many requests: what the next one may cost."""
        self._ledger.pull_ended(requests)

    def forecast(self, count: int, lane: Lane, *, in_flight: int = 64) -> Eta:
        """When `count` more requests of `lane` would be done, `in_flight` at a time at most."""
        return self._reporter.forecast(count, lane, in_flight=in_flight)

    def state(self) -> BudgetState:
        """What is used and free now, by whom, and what holds it up."""
        return self._reporter.state()

    def ages_s(self, within_s: float) -> list[float]:
        """How many seconds ago each request of the last `within_s` was answered; older than the
        longest window isn't kept."""
        return self._reporter.ages_s(within_s)

    def close(self) -> None:
        """Book what is answered, and leave. Callers that still wait get BudgetClosed."""
        self._dispatcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
