"""A sandbox in a process of its own, so that it doesn't compete for our interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_processes: dict[str, int] = {}
"""By URL."""


@contextmanager
def serving(**options: object) -> Iterator[str]:
    """The URL of an unlimited sandbox. options: of SandboxOptions."""
    command = [sys.executable, "-m", "pipelines.cli", "sandbox", "--json", "--port=0"]
    chosen = [f"--option={name}={json.dumps(value)}" for name, value in options.items()]
    process = subprocess.Popen(
        [*command, "--limits=none", *chosen], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        url = str(json.loads(process.stdout.readline())["url"])
        _processes[url] = process.pid
        yield url
    finally:
        process.terminate()
        process.communicate()


def server_cpu_s(url: str) -> float:
    """What the sandbox at `url` has used so far; 0.0 where the system doesn't say (/proc)."""
    stat = Path(f"/proc/{_processes[url]}/stat")
    if not stat.exists():
        return 0.0
    user, system = stat.read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
