"""Run the script at destinations and record the results: python -m tests.destinations [NAME].

Without a name: at each, in an environment of its own where it needs packages, one after the other;
then the table of levels is written, whatever has failed or was skipped.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
import venv
from pathlib import Path

from tests.destinations import levels
from tests.destinations.script import STEPS, run_script
from tests.destinations.servers import PLACES, NotHere

ENVIRONMENTS = Path(".venv-destinations")
_SKIPPED = 77
_MAX_S = 1800.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", choices=PLACES)
    name = parser.parse_args().name
    return run_one(name) if name else run_all()


def run_all() -> int:
    """1 if one has failed; those that were skipped are named."""
    outcomes = {name: _run_apart(name) for name in PLACES}
    levels.write_table()
    for name, outcome in outcomes.items():
        print(f"{name}: {outcome}")
    return 1 if "failed" in outcomes.values() else 0


def _run_apart(name: str) -> str:
    try:
        command = [str(environment_of(name)), "-m", "tests.destinations", name]
        code = subprocess.run(command, check=False, timeout=_MAX_S).returncode
    except subprocess.CalledProcessError:
        print(f"{name}: skipped. Its packages can't be installed here", file=sys.stderr)
        return "skipped"
    except subprocess.TimeoutExpired:
        levels.record(name, date=today(), failed=f"not done after {_MAX_S:.0f} s")
        return "failed"
    if code not in (0, _SKIPPED) and name in levels.passed():  # by an earlier run
        levels.record(name, date=today(), failed="its start")
    return {0: "passed", _SKIPPED: "skipped"}.get(code, "failed")


def environment_of(name: str) -> Path:
    """The Python that has the destination's packages, over those of this environment."""
    packages = PLACES[name].packages
    if not packages:
        return Path(sys.executable)
    folder = ENVIRONMENTS / name
    python = folder / "bin/python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    own = Path(sysconfig.get_path("purelib", vars=paths))
    shared = sysconfig.get_path("purelib")  # with what its own .pth files add
    (own / "zz_shared.pth").write_text(f"import site; site.addsitedir({shared!r})\n")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    subprocess.run(install, check=True)
    return python


def run_one(name: str) -> int:
    """Run the script at one destination, here, and record what it has shown."""
    place = PLACES[name]
    versions, done = "", list[str]()
    with tempfile.TemporaryDirectory(prefix="hc-destination-") as made:
        folder = Path(made)
        home = folder / "home"
        home.mkdir()
        os.environ.update(HOME=str(home), XDG_STATE_HOME=str(home / "state"))
        os.environ["PYTHONPATH"] = str(Path.cwd())
        os.chdir(folder)
        try:
            with place.start(folder) as running:
                versions = running.versions
                os.environ.update(running.variables)
                for step in run_script(running, folder, left_out=place.left_out):
                    print(f"{name}: {step}", flush=True)
                    done.append(step)
        except NotHere as error:
            print(f"{name}: skipped. First: {error}", file=sys.stderr)
            return _SKIPPED
        except Exception:  # noqa: BLE001 - whatever it is, the table has to say so
            traceback.print_exc()
            wanted = (step for step in STEPS if step not in (*place.left_out, *done))
            levels.record(name, date=today(), versions=versions, failed=next(wanted, "its end"))
            return 1
    levels.record(name, date=today(), versions=versions, steps=len(done))
    return 0


def today() -> str:
    return datetime.datetime.fromtimestamp(time.time(), datetime.UTC).date().isoformat()


if __name__ == "__main__":
    sys.exit(main())
