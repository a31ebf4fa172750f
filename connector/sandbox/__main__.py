"""`python -m connector.sandbox --port 8080 --prospects 3000 --windows '[[300, 60]]'`.

Every option of `SandboxOptions` is a flag of the same name; its value is JSON, or a bare word.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from connector.sandbox.options import SandboxOptions, change_options
from connector.sandbox.server import Sandbox, serve


def main(argv: list[str]) -> int:
    """Serve until a signal comes; prints one JSON line with url and port when the port answers.

    Returns the exit code: 128 + the signal's number, or 2 for flags that make no sense.
    """
    try:
        flags = dict(_flags(argv))
        port = int(flags.pop("port", 0))
        options = SandboxOptions()
        change_options(options, flags)
    except (TypeError, ValueError) as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return 2
    return 128 + serve(options, port, _announce)


def _flags(argv: list[str]) -> list[tuple[str, Any]]:
    names, values = argv[::2], argv[1::2]
    if len(names) != len(values) or not all(name.startswith("--") for name in names):
        raise ValueError("expected pairs of --name and value")
    return [
        (name[2:].replace("-", "_"), _value(value))
        for name, value in zip(names, values, strict=True)
    ]


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except json.JSONDecodeError:
        return word


def _announce(sandbox: Sandbox) -> None:
    facts = {"url": sandbox.url, "port": sandbox.port, "control_url": sandbox.control_url}
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
