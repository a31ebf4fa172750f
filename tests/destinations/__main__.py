"""Run the script at one destination and record the result: python -m tests.destinations NAME."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.destinations import levels
from tests.destinations.script import STEPS, run_script
from tests.destinations.servers import PLACES, NotHere


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=[*PLACES, "table", "packages"])
    parser.add_argument("of", nargs="?", help="with `packages`: of which destination")
    asked = parser.parse_args()
    if asked.name == "table":
        levels.write_table()
        return 0
    if asked.name == "packages":
        print(*PLACES[asked.of].packages)
        return 0
    place = PLACES[asked.name]
    with tempfile.TemporaryDirectory(prefix="hc-destination-") as name:
        folder = Path(name)
        home = folder / "home"
        home.mkdir()
        os.environ.update(HOME=str(home), XDG_STATE_HOME=str(home / "state"))
        os.environ["PYTHONPATH"] = str(Path.cwd())
        os.chdir(folder)
        try:
            with place.start(folder) as running:
                os.environ.update(running.variables)
                for step in run_script(running, folder, left_out=place.left_out):
                    print(f"{asked.name}: {step}", flush=True)
        except NotHere as error:
            print(f"{asked.name}: skipped. First: {error}", file=sys.stderr)
            return 0
    today = datetime.datetime.fromtimestamp(time.time(), datetime.UTC).date()
    levels.record(
        asked.name,
        date=today.isoformat(),
        versions=running.versions,
        steps=len(STEPS) - len(place.left_out),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
