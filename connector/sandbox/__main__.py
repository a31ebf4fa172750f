"""`python -m connector.sandbox --port 8080 --prospects 3000 --windows '[[300, 60]]'`.

Every option of `SandboxOptions` is a flag of the same name; its value is JSON, or a bare word.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from connector.sandbox import Sandbox, SandboxOptions, change_options, serve


def main(argv: list[str]) -> int:
    """Serve until a signal arrives; prints one JSON line with url and port when ready.

    Returns the exit code: 128 + the signal's number, or 2 for invalid flags.
    """
    names, values = argv[::2], argv[1::2]
    options = SandboxOptions()
    try:
        if len(names) != len(values) or not all(name.startswith("--") for name in names):
            raise ValueError("expected pairs of --name and value")
        flags = {
            name[2:].replace("-", "_"): _value(value)
            for name, value in zip(names, values, strict=True)
        }
        port = int(flags.pop("port", 0))
        change_options(options, flags)
    except (TypeError, ValueError) as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return 2
    return 128 + serve(options, port, _announce)


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except json.JSONDecodeError:
        return word


def _announce(sandbox: Sandbox) -> None:
    facts = {"url": sandbox.url, "port": sandbox.port, "control_url": sandbox.control_url}
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
