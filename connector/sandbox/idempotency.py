"""Idempotency keys: an answer is given again, a change is not made again."""

from __future__ import annotations

from dataclasses import dataclass

from connector.sandbox.errors import Refused, bad_request

MAX_KEY_LENGTH = 512


@dataclass(frozen=True)
class Answer:
    """A finished answer: HTTP status and JSON body."""

    status: int
    body: bytes


@dataclass
class _Kept:
    fingerprint: str
    answer: Answer | None = None
    finished_s: float | None = None


class IdempotencyKeys:
    """What the server remembers of each key: the payload, and the answer once there is one."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}

    def begin(self, key: str, fingerprint: str, now_s: float, ttl_s: float | None) -> Answer | None:
        """The answer to replay; None = run the request, then call `finish` or `abandon`.

        fingerprint: stands for method, path and the payload's bytes. ttl_s: seconds from the answer
        until the key is forgotten; None = never.

        Raises:
            Refused: 409, another payload came with this key, or the first still runs;
                400, the key is too long.
        """
        if len(key) > MAX_KEY_LENGTH:
            raise bad_request(
                f"X-Idempotency-Key: at most {MAX_KEY_LENGTH} characters, got {len(key)}"
            )
        kept = self._kept.get(key)
        if kept is None or _is_over(kept, now_s, ttl_s):
            self._kept[key] = _Kept(fingerprint)
            return None
        if kept.fingerprint != fingerprint:
            raise Refused(409, "Conflict", "This idempotency key was used with another payload.")
        if kept.answer is None:
            raise Refused(
                409, "Conflict", "A request with this idempotency key is still in progress."
            )
        return kept.answer

    def finish(self, key: str, answer: Answer, now_s: float) -> None:
        self._kept[key].answer, self._kept[key].finished_s = answer, now_s

    def abandon(self, key: str) -> None:
        """Forget a key whose request failed before it changed anything."""
        self._kept.pop(key, None)


def _is_over(kept: _Kept, now_s: float, ttl_s: float | None) -> bool:
    return ttl_s is not None and kept.finished_s is not None and now_s - kept.finished_s > ttl_s
