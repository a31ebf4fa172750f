"""A folder with a real pull in it, as a reader of the documentation has one."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from connector.sandbox import Sandbox, SandboxOptions
from tests.docs.pages import ROOT
from tests.processes.zygote import Zygote

BIN = Path(sys.executable).parent
PEOPLE = "First Name,Last Name,Email\nAda,Byron,ada@example.com\n"
CALLS = "email,body\nada@example.com,Called\nnobody@example.com,Left a message\n"
FAIR = """\
Given name,Family name,Email,Mobile,Tags,Internal remark
Grace,Hopper,grace@example.com,(212) 555-0199,Nurse;Fair,met at the stand
"""


@dataclass(frozen=True)
class ReadersProject:
    """folder: the working folder, with a key for a mock API in `environment`."""

    folder: Path
    environment: dict[str, str]
    zygote: Zygote

    def run(self, line: str) -> tuple[int, str]:
        """Exit code and output of one command line.

        `hiringcenter` is forked from a process that has paid for its imports.
        """
        if " undo " in line:
            line = re.sub(r"\d{8}T\d{6}-\w+", self._last_push(), line)
        if line.startswith("hiringcenter "):
            self.zygote.start(*shlex.split(line)[1:])
            code = self.zygote.wait()
            return code, "".join((self.folder / name).read_text() for name in ("out", "err"))
        if line.startswith("make "):  # the environment is the one this test runs in
            line = line.replace("make ", "make --old-file=.venv/.installed ", 1)
        done = subprocess.run(
            shlex.split(line), cwd=self.folder, env=self.environment, text=True, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=500,
        )  # fmt: skip
        return done.returncode, done.stdout

    def _last_push(self) -> str:
        self.zygote.start("runs", "--json")
        assert self.zygote.wait() == 0
        runs = json.loads((self.folder / "out").read_text())["runs"]
        return str(next(each["run_id"] for each in runs if each["kind"] == "push"))


@contextmanager
def readers_project(folder: Path) -> Iterator[ReadersProject]:
    """A project in `folder` that was pulled once and pushed once."""
    for name in ("Makefile", "pyproject.toml", "config", "connector", "pipelines"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    (folder / ".venv").symlink_to(BIN.parent)
    (folder / "people.csv").write_text(PEOPLE)
    (folder / "fair.csv").write_text(FAIR)
    (folder / "calls.csv").write_text(CALLS)
    options = SandboxOptions(prospects=120, notes=80, tasks=40, meetings=20, windows=None)
    with Sandbox(options) as sandbox:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HIRINGCENTER", "MAKE", "MFLAGS"))
        } | {
            "DLT_DATA_DIR": str(folder / "dlt"),
            "BROWSER": "true",
            "HIRINGCENTER_API_KEY": sandbox.api_key,
            "HIRINGCENTER_API_KEY_EAST": sandbox.api_key,
            "HIRINGCENTER_API_KEY_WEST": sandbox.api_key,
            "HIRINGCENTER_BASE_URL": sandbox.url,
            "HIRINGCENTER_RATE_LIMITS": "30000/60s",  # the pages look up more than a minute allows
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        with Zygote(folder, environment) as zygote:
            project = ReadersProject(folder, environment, zygote)
            for command in ("pull", "push people.csv"):
                code, output = project.run(f"hiringcenter {command}")
                assert code == 0, output
            yield project
