"""One call of the API: a permit before each try, and tries until there is an answer."""

from __future__ import annotations

import math
import random
import signal
import threading
from dataclasses import dataclass, replace

from connector.api.answers import Answer, Read, failure, understand
from connector.api.measures import Measures
from connector.api.retry import Action, Effort, Outcome, decide
from connector.api.transport import Exchange, Transport
from connector.budget import Budget, Lane, Permit
from connector.clock import Clock
from connector.errors import ConnectorError, Interrupted, Unreachable
from connector.logs import get_logger

READ_PATIENCE_S = 0.5  # after a signal: a page that is nearly here is kept
WRITE_PATIENCE_S = 5.0  # a write on its way is worth waiting for: its answer settles its fate
log = get_logger("api")


@dataclass(frozen=True)
class Call:
    """One request, tried again with the same bytes. path: quoted, below the base URL.

    first_sent_s: monotonic seconds, when an earlier call sent it first. remembered_s: it is not
    sent again later than this after it was sent first: the API may have forgotten its key.
    patience_s: it is tried for no longer than this, however long the client would try.
    """

    method: str
    path: str
    lane: Lane
    params: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    idempotency_key: str | None = None
    absent_at_404: bool = False
    first_sent_s: float | None = None
    remembered_s: float = math.inf
    patience_s: float = math.inf

    def headers(self) -> dict[str, str]:
        if self.idempotency_key is None:
            return {}
        return {"Content-Type": "application/json", "X-Idempotency-Key": self.idempotency_key}


@dataclass(frozen=True)
class Caller:
    """Makes calls, from any number of threads. Times are those of `ApiClient`."""

    transport: Transport
    budget: Budget
    measures: Measures
    clock: Clock
    stop: threading.Event | None
    request_timeout_s: float
    retry_total_s: float

    def answer(self, call: Call, read: Read) -> Answer:
        """The first usable answer. Raises what `ApiClient` names."""
        effort, first_sent_s = Effort(), call.first_sent_s
        keyed = call.idempotency_key is not None
        while True:
            permit = self._permit(call.lane)
            started_s = self.clock.monotonic_s()
            if first_sent_s is not None and started_s - first_sent_s > call.remembered_s:
                self.budget.unsent(permit)
                raise _forgotten(call, effort)
            since_s = None if first_sent_s is None else started_s - first_sent_s
            exchange = self._try(call, permit, self._timeout_s(call, effort))
            if exchange.sent and first_sent_s is None:
                first_sent_s = started_s
            took_s = self.clock.monotonic_s() - started_s
            answer = understand(exchange, read, keyed=keyed, absent_at_404=call.absent_at_404)
            effort = effort.after(answer.outcome, sent=exchange.sent, took_s=took_s)
            wait_s = self._wait_s(call, answer, effort)
            if wait_s is None:
                return replace(answer, first_sent_before_s=since_s)
            self._back_off(wait_s)
            effort = effort.waited(wait_s)

    def _permit(self, lane: Lane) -> Permit:
        """A permit that is still good; one that came too late goes back unused."""
        while True:
            self._check_stop()
            permit = self.budget.permit(lane)
            if self.clock.monotonic_s() <= permit.send_by_s:
                return permit
            self.budget.unsent(permit)

    def _try(self, call: Call, permit: Permit, timeout_s: float) -> Exchange:
        """One exchange, told to the budget whatever becomes of it."""
        try:
            exchange = self.transport.send(
                call.method, call.path,
                params=call.params, body=call.body, headers=call.headers(),
                timeout_s=timeout_s, stop=self.stop,
                patience_s=READ_PATIENCE_S if call.body is None else WRITE_PATIENCE_S,
            )  # fmt: skip
        except BaseException:
            self.budget.unanswered(permit)
            raise
        self.measures.note(exchange, now_s=self.clock.now_s(), monotonic_s=self.clock.monotonic_s())
        self._settle(permit, exchange)
        return exchange

    def _settle(self, permit: Permit, exchange: Exchange) -> None:
        if exchange.status is not None:
            self.budget.answered(permit, exchange.status, exchange.headers)
        elif exchange.sent:
            self.budget.unanswered(permit)
        else:
            self.budget.unsent(permit)

    def _timeout_s(self, call: Call, effort: Effort) -> float:
        """The first try gets all its time, unless the caller's patience with a read is shorter;
        later ones end with the retry budget."""
        if not effort.tries:
            patience_s = call.patience_s if call.body is None else math.inf
            return min(self.request_timeout_s, patience_s)
        return min(self.request_timeout_s, self._total_s(call) - effort.spent_s)

    def _total_s(self, call: Call) -> float:
        return min(self.retry_total_s, call.patience_s)

    def _wait_s(self, call: Call, answer: Answer, effort: Effort) -> float | None:
        """Seconds until the next try; None if the answer is usable. Raises if it is the last."""
        if answer.outcome not in (Outcome.USABLE, Outcome.FINAL):
            self._check_stop()
        decision = decide(
            answer.outcome, answer.exchange.headers, effort,
            total_s=self._total_s(call), now_s=self.clock.now_s(), jitter=random.random(),
        )  # fmt: skip
        if decision.action is Action.RETURN:
            return None
        if decision.action is Action.RETRY:
            log.info(
                "api.retry", url_path=call.path, status=answer.exchange.status,
                why=answer.reason, tries=effort.tries, wait_s=round(decision.wait_s, 3),
            )  # fmt: skip
            return decision.wait_s
        raise self._error(call, answer, effort, decision.action)

    def _error(self, call: Call, answer: Answer, effort: Effort, action: Action) -> ConnectorError:
        if action is Action.FAIL:
            return failure(answer, url_path=call.path, host=self.transport.host)
        status = f"{answer.exchange.status} " if answer.exchange.status else ""
        return Unreachable(
            url_path=call.path, tries=effort.tries, sent=effort.sent,
            tried_s=effort.spent_s, last=f"{status}{answer.reason}",
        )  # fmt: skip

    def _back_off(self, wait_s: float) -> None:
        if self.clock.sleep(wait_s, self.stop):
            self._check_stop()

    def _check_stop(self) -> None:
        if self.stop is not None and self.stop.is_set():
            raise Interrupted(getattr(self.stop, "signal_number", signal.SIGTERM))


def _forgotten(call: Call, effort: Effort) -> Unreachable:
    return Unreachable(
        url_path=call.path, tries=effort.tries, sent=effort.sent, tried_s=effort.spent_s,
        last="its idempotency key may be forgotten by now, so it is not sent again",
    )  # fmt: skip
