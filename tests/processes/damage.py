"""Files damaged in the ways of a dying disk, a full disk or a careless program."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

_SECTOR = 512


def _truncated(file: Path, chance: random.Random) -> None:
    os.truncate(file, chance.randrange(1 + file.stat().st_size))


def _emptied(file: Path, chance: random.Random) -> None:
    os.truncate(file, 0)


def _zeroed(file: Path, chance: random.Random) -> None:
    """A run of sectors that were never written."""
    _write(file, chance.randrange(1 + file.stat().st_size), bytes(chance.choice([1, 8, 64]) * 512))


def _flipped(file: Path, chance: random.Random) -> None:
    """A few bytes, each somewhere."""
    for _ in range(4):
        _write(file, chance.randrange(1 + file.stat().st_size), bytes([chance.randrange(256)]))


def _overwritten(file: Path, chance: random.Random) -> None:
    """Something else from the first byte on."""
    _write(file, 0, chance.randbytes(4096))


def _removed(file: Path, chance: random.Random) -> None:
    file.unlink()


def _made_a_folder(file: Path, chance: random.Random) -> None:
    file.unlink()
    (file / "inside").mkdir(parents=True)


def _write(file: Path, at: int, bytes_: bytes) -> None:
    """Overwrites what is there; the file doesn't grow."""
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.seek(min(at, size))
        stream.write(bytes_[: max(0, size - at)])


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    function.__name__.strip("_").replace("_", " "): function
    for function in (
        _truncated, _emptied, _zeroed, _flipped, _overwritten, _removed, _made_a_folder,
    )
}  # fmt: skip


def state_files(folder: Path) -> list[Path]:
    """Files of the state directory in `folder`, and the published copy."""
    found = [*folder.glob("state/**/*"), *folder.glob("data/*")]
    return sorted(file for file in found if file.is_file())


def remove_what_was_put_aside(folder: Path) -> None:
    """What pulls have kept of damaged files, named so."""
    for aside in [*folder.rglob("*.damaged-*"), *folder.rglob("*.kept-*")]:
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink(missing_ok=True)
