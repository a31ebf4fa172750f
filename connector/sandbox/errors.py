"""What the API refuses, as an exception that becomes an `Error` answer."""

from __future__ import annotations


class Refused(Exception):
    """A request that is answered with `status` and `{"error", "message"}`."""

    def __init__(self, status: int, error: str, message: str) -> None:
        self.status, self.error = status, error
        super().__init__(message)

    def as_json(self) -> dict[str, str]:
        return {"error": self.error, "message": str(self)}


def bad_request(message: str) -> Refused:
    return Refused(400, "Bad request", message)
