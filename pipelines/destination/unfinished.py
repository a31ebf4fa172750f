"""Which scans have left rows in the working file without having come to their end.

Such rows are a mix of two moments: until their scan has ended, nothing is published. A mark is a
file, made before the first row lands, so that it outlives a kill.
"""

from __future__ import annotations

import time
from pathlib import Path

_OTHERS_COUNT_FOR_S = 2 * 86_400.0  # then nobody pulls that dataset any more: it must not block


class UnfinishedScans:
    """The marks of one working file. folder: where they are. dataset: the one of this run."""

    def __init__(self, folder: Path, dataset: str) -> None:
        self._folder, self._dataset = folder, dataset

    def begin(self, resource: str) -> None:
        """Rows of `resource` are about to land; its scan goes on after them."""
        file = self._file(resource)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch()

    def end(self, resource: str) -> None:
        """What follows from the scan of `resource` is in the working file too."""
        self._file(resource).unlink(missing_ok=True)

    def __contains__(self, resource: str) -> bool:
        return self._file(resource).exists()

    def names(self) -> list[str]:
        """Resources in the midst of a scan; those of other datasets as `dataset.resource`."""
        own = sorted(file.name for file in self._folder.glob(f"{self._dataset}/*"))
        others = sorted(
            f"{file.parent.name}.{file.name}"
            for file in self._folder.glob("*/*")
            if file.parent.name != self._dataset
            and time.time() - file.stat().st_mtime < _OTHERS_COUNT_FOR_S
        )
        return own + others

    def _file(self, resource: str) -> Path:
        return self._folder / self._dataset / resource
