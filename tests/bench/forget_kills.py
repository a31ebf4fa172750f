"""A forget killed before every tenth of its file operations, and finished by the next one."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.bench import Row
from tests.processes.file_operations import FileFault
from tests.processes.forget_kills import KilledForgets, environment, made_folder
from tests.processes.pull_kills import small_sandbox
from tests.processes.zygote import Zygote
from tests.sync.pull.traces import add_person

_EVERY = 10


def run() -> list[Row]:
    with (
        tempfile.TemporaryDirectory(prefix="forget-kills-") as folder,
        small_sandbox() as sandbox,
        Zygote(
            made_folder(Path(folder) / "run"), environment(sandbox), watches_files=True
        ) as zygote,
    ):
        add_person(sandbox)
        forgets = KilledForgets(zygote, sandbox)
        last = forgets.operations()
        forgets.try_all(FileFault(kill_before=number) for number in range(1, last, _EVERY))
    for each in forgets.wrong:
        print(each)
    return [
        Row(
            f"{len(forgets.killed)} SIGKILLs of a forget of {last} file operations",
            f"{len(forgets.wrong)} after which something of the person was left",
            "none",
            not forgets.wrong and len(forgets.killed) > last // _EVERY // 2,
        )
    ]
