"""An HTTP server that counts like a rate limiter and nothing else: exact, in real time.

It stamps a request half its latency after the first byte arrived. `GET /log` shows what it
counted; `GET /after/N` is answered once N requests have arrived.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Literal

Windows = list[tuple[int, float]]


@dataclass
class Counter:
    """Requests per window, exactly: a sliding log, or fixed windows of any alignment."""

    windows: Windows
    kind: Literal["sliding", "fixed"] = "sliding"
    offset_s: float = 0.0
    accepted_s: list[float] = field(default_factory=list)
    foreign_s: list[float] = field(default_factory=list)
    refused: int = 0

    def used(self, length_s: float, now_s: float) -> int:
        since_s = now_s - length_s
        if self.kind == "fixed":
            since_s = self.offset_s + (now_s - self.offset_s) // length_s * length_s
        sides = bisect.bisect_left if self.kind == "fixed" else bisect.bisect_right
        return sum(len(log) - sides(log, since_s) for log in (self.accepted_s, self.foreign_s))

    def free(self, now_s: float) -> bool:
        return all(self.used(length_s, now_s) < limit for limit, length_s in self.windows)

    def count(self, now_s: float) -> bool:
        """Whether one more request was accepted."""
        if not self.free(now_s):
            self.refused += 1
            return False
        self.accepted_s.append(now_s)
        return True

    def reset_s(self, length_s: float, now_s: float) -> float:
        """Until the window has room again."""
        if self.kind == "fixed":
            return length_s - (now_s - self.offset_s) % length_s
        log = sorted(self.accepted_s + self.foreign_s)
        first_s = log[max(0, len(log) - self.used(length_s, now_s))] if log else now_s
        return max(0.0, first_s + length_s - now_s)


@dataclass
class ExactServer:
    """reset: how `RateLimit-Reset` is written. foreign: share of the tightest rate that
    another program spends, in bursts."""

    counter: Counter
    latency_s: float
    reset: Literal["delta", "epoch", "none"] = "delta"
    foreign: float = 0.0
    arrived: int = 0
    arrival: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def serve(self, pipe: Connection) -> None:
        """Send the port into `pipe`, and serve until the process ends."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=256)
        pipe.send(server.sockets[0].getsockname()[1])
        stranger = asyncio.create_task(self._spend())
        async with server:
            await server.serve_forever()
        await stranger

    async def _spend(self) -> None:
        if not self.foreign:
            return
        rate = min(limit / length_s for limit, length_s in self.counter.windows) * self.foreign
        while True:
            burst = random.randint(1, 5)
            await asyncio.sleep(random.expovariate(rate / burst))
            now_s = time.monotonic()
            for _ in range(burst):
                if self.counter.free(now_s):
                    self.counter.foreign_s.append(now_s)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head.startswith(b"GET /log"):
                    self._answer(writer, 200, json.dumps(self._log()), {})
                elif head.startswith(b"GET /after/"):
                    await self._after(int(head.split()[1].rpartition(b"/")[2]))
                    self._answer(writer, 200, "{}", {})
                else:
                    await self._counted(writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _after(self, requests: int) -> None:
        async with self.arrival:
            await self.arrival.wait_for(lambda: self.arrived >= requests)

    async def _counted(self, writer: asyncio.StreamWriter) -> None:
        async with self.arrival:
            self.arrived += 1
            self.arrival.notify_all()
        await asyncio.sleep(self.latency_s / 2)
        now_s = time.monotonic()
        accepted = self.counter.count(now_s)
        headers = self._headers(now_s, accepted)
        await asyncio.sleep(self.latency_s / 2)
        self._answer(writer, 200 if accepted else 429, "{}", headers)

    def _headers(self, now_s: float, accepted: bool) -> dict[str, str]:
        if self.reset == "none":
            return {}
        limit, length_s, left = min(
            ((n, s, n - self.counter.used(s, now_s)) for n, s in self.counter.windows),
            key=lambda window: window[2] / window[0],
        )
        wait_s = self.counter.reset_s(length_s, now_s)
        until = f"{time.time() + wait_s:.3f}" if self.reset == "epoch" else f"{wait_s:.3f}"
        found = {"RateLimit-Limit": str(limit), "RateLimit-Remaining": str(left)}
        found["RateLimit-Reset"] = until
        if not accepted:
            found["Retry-After"] = f"{wait_s:.3f}"
        return found

    def _answer(
        self, writer: asyncio.StreamWriter, status: int, body: str, headers: dict[str, str]
    ) -> None:
        lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())

    def _log(self) -> dict[str, object]:
        counter = self.counter
        return {"accepted_s": counter.accepted_s, "refused": counter.refused}


def parse_windows(text: str) -> Windows:
    """`30/3,120/30` as [(30, 3.0), (120, 30.0)]."""
    return [(int(n), float(s)) for n, s in (part.split("/") for part in text.split(","))]


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=parse_windows, default=parse_windows("30/3,120/30"))
    parser.add_argument("--latency-s", type=float, default=0.05)
    parser.add_argument("--kind", choices=["sliding", "fixed"], default="sliding")
    parser.add_argument("--reset", choices=["delta", "epoch", "none"], default="delta")
    parser.add_argument("--foreign", type=float, default=0.0)
    return parser


def serve_and_tell(pipe: Connection, options: Sequence[str]) -> None:
    """What a process runs: a server with `options`, whose port it sends into `pipe`."""
    asked = arguments().parse_args(options)
    offset_s = time.monotonic() - random.uniform(0, asked.windows[-1][1])
    counter = Counter(asked.windows, asked.kind, offset_s)
    server = ExactServer(counter, asked.latency_s, asked.reset, asked.foreign)
    asyncio.run(server.serve(pipe))
