"""Which folder a command works for, and which files found there count.

A project is the nearest folder upwards that has `config/hiringcenter.toml`, or a `.env` with a
HIRINGCENTER_ name in it; or the folder given by hand. Relative paths, and dlt's own `.dlt/`,
belong to it, so that cron needs no `cd`. A file that was merely found can redirect the API key,
so it counts only where no other user can have written it.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from connector.errors import UntrustedFile, UsageError

CONFIG_FILE = Path("config/hiringcenter.toml")
DOTENV_FILE = Path(".env")
DLT_FILES = (Path(".dlt/config.toml"), Path(".dlt/secrets.toml"))
_LARGEST_DOTENV = 1 << 20  # bytes; what is larger was not written as settings
_OWN_NAME = re.compile(rb"^[ \t]*+(?:export\s+)?HIRINGCENTER_\w", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Project:
    """Where relative paths start, and the settings files that count.

    folder: absolute. config, dotenv: None where there is none, or it isn't trusted. uses_dlt_files:
    whether `.dlt/` in `folder` counts. is_found: False where no project was found and the working
    folder stands in for one. notes: what people should hear, such as a file that was skipped.
    """

    folder: Path
    config: Path | None = None
    dotenv: Path | None = None
    uses_dlt_files: bool = True
    is_found: bool = False
    notes: tuple[str, ...] = ()

    @property
    def searched(self) -> str:
        """Where settings were looked for, as a phrase for people."""
        if self.is_found:
            return f"{self.folder / DOTENV_FILE} and {self.folder / CONFIG_FILE}"
        return (
            f"{CONFIG_FILE} and a {DOTENV_FILE} with a HIRINGCENTER_ name in {self.folder} and the "
            "folders above it"
        )

    def path(self, relative: Path) -> Path:
        """`relative` as this project means it; `~` is the home. It stays as people wrote it where
        they work in the project's folder."""
        path = relative.expanduser()
        return path if self.folder == Path.cwd() else self.folder / path


def _working_folder() -> Path | None:
    """None: it was removed."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def open_project(given: Path | None = None) -> Project:
    """The project given by hand, or the nearest one upwards from the working folder.

    Raises:
        UsageError: `given` is no folder, or there is no working folder any more.
        UntrustedFile: a file in the working folder itself could have been written by another user.
    """
    if given is not None:
        folder = given.expanduser().absolute()
        if not folder.is_dir():
            raise UsageError(f"--project {given}: no such folder.")
        if _working_folder() is None:
            os.chdir(folder)  # libraries ask for one
        return _project(folder, [*_settings_files(folder)], dotenv=folder / DOTENV_FILE)
    here = _working_folder()
    if here is None:
        raise UsageError(
            "The working folder has been removed. Run the command in another folder, or name one "
            "with --project DIR."
        )
    notes: list[str] = []
    for folder in (here, *here.parents):
        files = [path for path in _settings_files(folder) if _counts(path, here, notes)]
        if files:
            ignored = [p for p in _present(folder, DLT_FILES) if not _counts(p, here, notes)]
            dotenv = folder / DOTENV_FILE
            if dotenv not in files and not (dotenv.is_file() and _counts(dotenv, here, notes)):
                dotenv = Path()
            return _project(
                folder, files, dotenv=dotenv, uses_dlt_files=not ignored, notes=tuple(notes)
            )
    for path in _present(here, DLT_FILES):  # dlt would read them all the same
        _counts(path, here, notes)
    return Project(here, notes=tuple(notes))


def _project(
    folder: Path,
    files: list[Path],
    *,
    dotenv: Path,
    uses_dlt_files: bool = True,
    notes: tuple[str, ...] = (),
) -> Project:
    config = folder / CONFIG_FILE
    has_dotenv = dotenv.is_file()
    exposed = (
        (f"{dotenv} can be read by other users of this machine: chmod 600 {dotenv}",)
        if has_dotenv and dotenv.stat().st_mode & 0o004
        else ()
    )
    return Project(
        folder,
        config=config if config in files else None,
        dotenv=dotenv if has_dotenv else None,
        uses_dlt_files=uses_dlt_files,
        is_found=True,
        notes=(*notes, *exposed),
    )


def _settings_files(folder: Path) -> Iterator[Path]:
    """Those files of `folder` that make it a project."""
    yield from _present(folder, (CONFIG_FILE,))
    dotenv = folder / DOTENV_FILE
    if _names_a_setting(dotenv):
        yield dotenv


def _present(folder: Path, names: tuple[Path, ...]) -> Iterator[Path]:
    for name in names:
        try:
            if (folder / name).is_file():
                yield folder / name
        except OSError:  # a folder above that may not be looked into
            continue


def _names_a_setting(dotenv: Path) -> bool:
    try:
        if not dotenv.is_file() or dotenv.stat().st_size > _LARGEST_DOTENV:
            return False
        return _OWN_NAME.search(dotenv.read_bytes()) is not None
    except OSError:
        return False


def _counts(path: Path, working_folder: Path, notes: list[str]) -> bool:
    reason = why_untrusted(path)
    if reason is None:
        return True
    if path.is_relative_to(working_folder):
        raise UntrustedFile(path=str(path), reason=reason)
    note = f"{path} is ignored: {reason}. If it is yours, name its folder with --project."
    if note not in notes:
        notes.append(note)
    return False


def why_untrusted(path: Path) -> str | None:
    """Why another user may have written `path` (a file or a folder); None if only this one or
    root can have."""
    for found in {path, path.resolve()}:  # a link, and what it leads to
        facts = found.lstat()
        if facts.st_uid not in (os.geteuid(), 0):
            return f"it belongs to {_user_name(facts.st_uid)}, not to you or root"
        if stat.S_ISLNK(facts.st_mode):  # its own mode says nothing
            continue
        is_sticky = stat.S_ISDIR(facts.st_mode) and facts.st_mode & stat.S_ISVTX
        if facts.st_mode & stat.S_IWOTH and not is_sticky:
            return "every user of this machine can write it"
        if facts.st_mode & stat.S_IWGRP and not _is_private_group(facts.st_gid):
            return "other users of its group can write it"
    return None


def _is_private_group(gid: int) -> bool:
    """Whether the group has no member but this user (many systems give each user one), or root."""
    if gid == 0:
        return True
    try:
        own = pwd.getpwuid(os.geteuid())
        members = set(grp.getgrgid(gid).gr_mem) - {own.pw_name, "root"}
    except KeyError:
        return False
    others = [each for each in pwd.getpwall() if each.pw_gid == gid and each.pw_uid != own.pw_uid]
    return not members and not others and gid == own.pw_gid


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
