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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
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

    folder: absolute. config, dotenv: None if missing or untrusted. uses_dlt_files: whether `.dlt/`
    in `folder` counts. is_found: False if no project was found and the working folder stands in
    for one. notes: warnings, such as about a file that was skipped. variables: those of `dotenv`,
    once the settings are loaded; some are secrets.
    """

    folder: Path
    config: Path | None = None
    dotenv: Path | None = None
    uses_dlt_files: bool = True
    is_found: bool = False
    notes: tuple[str, ...] = ()
    variables: Mapping[str, str | None] = field(default_factory=dict, repr=False)

    @property
    def searched(self) -> str:
        """Where settings were looked for, as a phrase for people."""
        if self.is_found:
            return f"the environment, {self.folder / DOTENV_FILE} and {self.folder / CONFIG_FILE}"
        return (
            f"the environment, and {CONFIG_FILE} and {DOTENV_FILE} in {self.folder} and the "
            "folders above it"
        )

    def path(self, relative: Path) -> Path:
        """`relative` resolved in this project; `~` is the home. It stays relative if the project's
        folder is the working folder."""
        path = relative.expanduser()
        return path if self.folder == Path.cwd() else self.folder / path


def open_project(given: Path | None = None) -> Project:
    """The project given by hand, or the nearest one upwards from the working folder.

    Raises:
        UsageError: `given` isn't a folder, or the working folder no longer exists.
        UntrustedFile: a file in the working folder itself could have been written by another user.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was removed
        here = None
    if given is not None:
        folder = given.expanduser().absolute()
        if not folder.is_dir():
            raise UsageError(f"--project {given}: no such folder.")
        if here is None:
            os.chdir(folder)  # libraries need a working folder
        return _project_in(folder, lambda _: True)
    if here is None:
        raise UsageError(
            "The working folder has been removed. Run the command in another folder, or name one "
            "with --project DIR."
        )
    notes: dict[str, None] = {}

    def counts(path: Path) -> bool:
        reason = why_untrusted(path)
        if reason is not None and path.is_relative_to(here):
            raise UntrustedFile(path=str(path), reason=reason)
        if reason is not None:
            way = "If it is yours, pass its folder as --project."
            notes[f"{path} is ignored: {reason}. {way}"] = None
        return reason is None

    for folder in (here, *here.parents):
        settings_files = filter(_has_settings, (folder / CONFIG_FILE, folder / DOTENV_FILE))
        if [path for path in settings_files if counts(path)]:
            project = _project_in(folder, counts)
            return replace(project, notes=(*notes, *project.notes))
    for path in _dlt_files(here):  # dlt would read them anyway
        counts(path)
    return Project(here, notes=tuple(notes))


def _project_in(folder: Path, counts: Callable[[Path], bool]) -> Project:
    config, dotenv = folder / CONFIG_FILE, folder / DOTENV_FILE
    has_dotenv = _is_file(dotenv) and counts(dotenv)
    is_exposed = has_dotenv and dotenv.stat().st_mode & 0o004
    exposed = f"{dotenv} can be read by other users of this machine: chmod 600 {dotenv}"
    return Project(
        folder,
        config=config if _is_file(config) and counts(config) else None,
        dotenv=dotenv if has_dotenv else None,
        uses_dlt_files=not [path for path in _dlt_files(folder) if not counts(path)],
        is_found=True,
        notes=(exposed,) if is_exposed else (),
    )


def _dlt_files(folder: Path) -> list[Path]:
    return [folder / name for name in DLT_FILES if _is_file(folder / name)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a parent folder that can't be read
        return False


def _has_settings(path: Path) -> bool:
    """Whether a file makes its folder a project: a `.env` does if it names a setting of ours."""
    if path.name != DOTENV_FILE.name or not _is_file(path):
        return _is_file(path)
    try:
        return path.stat().st_size <= _LARGEST_DOTENV and bool(_OWN_NAME.search(path.read_bytes()))
    except OSError:
        return False


def why_untrusted(path: Path) -> str | None:
    """Why another user may have written `path` (a file or a folder); None if only this user or
    root can have."""
    for found in {path, path.resolve()}:  # a link, and its target
        facts = found.lstat()
        if facts.st_uid not in (os.geteuid(), 0):
            return f"it belongs to {_user_name(facts.st_uid)}, not to you or root"
        if stat.S_ISLNK(facts.st_mode):  # its own mode says nothing
            continue
        is_sticky = stat.S_ISDIR(facts.st_mode) and facts.st_mode & stat.S_ISVTX
        if facts.st_mode & stat.S_IWOTH and not is_sticky:
            return "every user of this machine can write to it"
        if facts.st_mode & stat.S_IWGRP and not _is_private_group(facts.st_gid):
            return "other users of its group can write to it"
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
