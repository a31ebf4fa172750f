"""Forgets that are killed before a file operation, each finished by the next one."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterable
from pathlib import Path

from connector.sandbox import Sandbox
from connector.settings import Settings
from tests.processes.file_operations import FileFault
from tests.processes.zygote import Zygote
from tests.sync.pull.traces import EMAIL, ID, SOUGHT, found_in, people_file, scatter


class KilledForgets:
    """zygote: one that watches files. killed: before which operations; wrong: what was left then,
    though the next forget has ended well."""

    def __init__(self, zygote: Zygote, sandbox: Sandbox) -> None:
        self._zygote, folder = zygote, zygote.folder
        self._template = folder.with_name("template")
        people_file(folder.parent)
        self._must_end("pull", "-q")
        self._must_end("push", "../people.csv", "-q")
        scatter(
            Settings(
                api_key=sandbox.api_key,
                base_url=sandbox.url,
                state_dir=folder / "state",
                duckdb_path=folder / "data" / "hiringcenter.duckdb",
            )
        )
        assert self._found().keys() >= {*SOUGHT}
        shutil.copytree(folder, self._template)
        self.killed: list[str] = []
        self.wrong: list[str] = []

    def try_all(self, faults: Iterable[FileFault]) -> None:
        folder = self._zygote.folder
        for fault in faults:
            shutil.rmtree(folder)
            shutil.copytree(self._template, folder)
            self._zygote.start("forget", EMAIL, "-q", fault=fault)
            if self._zygote.wait() != -signal.SIGKILL:
                continue
            self.killed.append(self._zygote.operations()[-1])
            self._must_end("forget", EMAIL, "-q")
            if left := self._found():
                self.wrong.append(f"{fault}, {self.killed[-1]}: {left}")

    def operations(self) -> int:
        """How many a forget makes."""
        self._must_end("forget", ID, "-q")
        return len(self._zygote.operations())

    def _found(self) -> dict[str, set[str]]:
        """Where they are; what commands print aside."""
        parts = (found_in(self._zygote.folder / name) for name in ("state", "data"))
        found: dict[str, set[str]] = {}
        for part in parts:
            for value, places in part.items():
                if places:
                    found[value] = found.get(value, set()) | places
        return found

    def _must_end(self, *command: str) -> None:
        self._zygote.start(*command)
        code = self._zygote.wait()
        assert code == 0, (command, code, (self._zygote.folder / "err").read_text())


def environment(sandbox: Sandbox) -> dict[str, str]:
    return {
        "HIRINGCENTER_API_KEY": sandbox.api_key,
        "HIRINGCENTER_BASE_URL": sandbox.url,
        "HIRINGCENTER_RATE_LIMITS": "1000000/60s",
        "HIRINGCENTER_STATE_DIR": "state",
        "HIRINGCENTER_MARTS__ENABLED": "false",
    }


def made_folder(path: Path) -> Path:
    path.mkdir()
    return path
