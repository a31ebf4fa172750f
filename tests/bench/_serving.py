"""A sandbox in a process of its own, so that it doesn't compete for our interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def serving(**options: object) -> Iterator[str]:
    """The URL of an unlimited sandbox. options: of SandboxOptions."""
    flags = [
        word
        for name, value in options.items()
        for word in (f"--{name.replace('_', '-')}", json.dumps(value))
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "connector.sandbox", *flags], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield str(json.loads(process.stdout.readline())["url"])
    finally:
        process.terminate()
        process.communicate()
