"""Which folder a command works for, and which files found there count."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from connector.errors import MissingKey, UntrustedFile, UsageError
from connector.settings import load, open_project
from pipelines.destination.identity import prepare_state_dir, work_paths

STRANGER = 65534  # nobody


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config/hiringcenter.toml", 'dataset = "mine"\n'),
        (".env", "OTHER=1\nexport HIRINGCENTER_DATASET=mine\n"),
    ],
)
def test_a_project_is_found_from_any_folder_below_it(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """So that cron needs no `cd`: settings, relative paths and jobs are the project's."""
    write(tmp_path / "project" / name, text)
    enter(tmp_path / "project/reports/may", monkeypatch)
    settings = load()
    assert settings.dataset == "mine"
    assert settings.duckdb_path == tmp_path / "project/data/hiringcenter.duckdb"
    assert settings.project.folder == tmp_path / "project"


def test_every_relative_path_of_the_settings_is_the_projects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also those of push jobs and accounts; an absolute one stays, `~` is the home."""
    toml = (
        'state_dir = "state"\nduckdb_path = "~/x.duckdb"\n'
        '[push.people]\nfile = "in/people.csv"\nmapping = "/etc/map.toml"\n'
        '[accounts.east]\napi_key_env = "HIRINGCENTER_API_KEY_EAST"\nduckdb_path = "east.duckdb"\n'
    )
    write(tmp_path / "p/config/hiringcenter.toml", toml)
    enter(tmp_path / "elsewhere", monkeypatch)
    settings = load(project=tmp_path / "p")
    assert settings.state_dir == tmp_path / "p/state"
    assert settings.duckdb_path == Path.home() / "x.duckdb"
    assert settings.push["people"].file == tmp_path / "p/in/people.csv"
    assert settings.push["people"].mapping == Path("/etc/map.toml")
    assert settings.accounts["east"].duckdb_path == tmp_path / "p/east.duckdb"


def test_a_dotenv_of_another_program_doesnt_make_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The nearest folder with a name of ours wins, however many other `.env` files lie between."""
    write(tmp_path / "p/.env", "HIRINGCENTER_DATASET=ours\n")
    write(tmp_path / "p/web/.env", "DATABASE_URL=x\nMY_HIRINGCENTER_KEY=y\n")
    enter(tmp_path / "p/web", monkeypatch)
    assert load().dataset == "ours"


def test_without_project_and_key_it_says_where_it_looked(tmp_path: Path):
    """The folder and the two names, so that a cron line in the wrong place is understood."""
    with pytest.raises(MissingKey) as refused:
        _ = load().key
    assert f"config/hiringcenter.toml and .env in {tmp_path}" in str(refused.value)


@as_root
@pytest.mark.parametrize("name", ["config/hiringcenter.toml", ".env", ".dlt/secrets.toml"])
@pytest.mark.parametrize(
    "fault",
    ["another user's", "writable by all", "writable by all, and sticky", "a link of another user"],
)
def test_in_the_working_folder_a_file_that_others_wrote_is_refused_by_name(
    name: str, fault: str, tmp_path: Path
):
    """It could send the API key elsewhere: exit 2 before anything is read or sent."""
    path = write(tmp_path / name, "HIRINGCENTER_BASE_URL=https://evil.example\n")
    _spoil(path, fault)
    with pytest.raises(UntrustedFile) as refused:
        load()
    assert (refused.value.path, refused.value.exit_code) == (str(path), 2)
    assert "--project" in str(refused.value)


def _spoil(path: Path, fault: str) -> None:
    if fault == "another user's":
        os.chown(path, STRANGER, STRANGER)
    elif fault == "writable by all":
        path.chmod(0o602)
    elif fault == "writable by all, and sticky":  # which protects what is in a folder, no file
        path.chmod(0o1602)
    else:
        target = path.rename(path.with_name("target"))
        path.symlink_to(target)
        os.chown(path, STRANGER, STRANGER, follow_symlinks=False)


@as_root
def test_an_untrusted_file_further_up_is_skipped_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Another user's /tmp/.env must neither redirect nor stop work below /tmp."""
    write(tmp_path / "home-of-mine/.env", "HIRINGCENTER_DATASET=mine\n")
    evil = write(
        tmp_path / "home-of-mine/shared/.env", "HIRINGCENTER_BASE_URL=https://evil.example\n"
    )
    os.chown(evil, STRANGER, STRANGER)
    enter(tmp_path / "home-of-mine/shared/work", monkeypatch)
    settings = load()
    assert (settings.dataset, settings.base_url.endswith("hiringcenterpro.com/v2")) == (
        "mine",
        True,
    )
    assert any(str(evil) in note for note in settings.project.notes)


def test_dlts_own_files_further_up_are_skipped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The project counts; its `.dlt/` that another user can write doesn't."""
    write(tmp_path / "p/config/hiringcenter.toml", "")
    write(tmp_path / "p/.dlt/config.toml", "", mode=0o666)
    enter(tmp_path / "p/below", monkeypatch)
    project = open_project()
    assert (project.folder, project.uses_dlt_files) == (tmp_path / "p", False)
    assert any(".dlt/config.toml" in note for note in project.notes)


@as_root
def test_a_project_named_by_hand_is_trusted(tmp_path: Path):
    """Who names the folder has looked at it; a folder that isn't there is exit 2."""
    path = write(tmp_path / "p/.env", "HIRINGCENTER_DATASET=theirs\n", mode=0o606)
    os.chown(path, STRANGER, STRANGER)
    assert load(project=tmp_path / "p").dataset == "theirs"
    with pytest.raises(UsageError, match="no such folder"):
        load(project=tmp_path / "q")


@as_root
def test_the_users_own_private_group_may_write(tmp_path: Path):
    """umask 002 is the default of systems that give each user a group."""
    path = write(tmp_path / ".env", "HIRINGCENTER_DATASET=mine\n", mode=0o660)
    os.chown(path, -1, pwd.getpwuid(os.geteuid()).pw_gid)
    assert load().dataset == "mine"
    os.chown(path, -1, 100)  # `users`: every user's
    with pytest.raises(UntrustedFile, match="group"):
        load()


def test_a_dotenv_that_others_can_read_is_noted(tmp_path: Path):
    """It holds the API key."""
    write(tmp_path / ".env", "HIRINGCENTER_DATASET=mine\n", mode=0o644)
    assert [note for note in load().project.notes if "chmod 600" in note]
    write(tmp_path / ".env", "HIRINGCENTER_DATASET=mine\n", mode=0o600)
    assert load().project.notes == ()


def test_a_foreign_variable_for_a_key_is_noted(tmp_path: Path):
    """A settings file could otherwise send any secret of the environment to its base URL."""
    write(tmp_path / "config/hiringcenter.toml", '[accounts.east]\napi_key_env = "AWS_SECRET"\n')
    (note,) = load().project.notes
    assert "HIRINGCENTER_API_KEY_EAST" in note


def test_one_state_for_all_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two folders with one key share ledger, outbox and locks; the working files are kept apart
    by destination."""
    enter(tmp_path / "one", monkeypatch)
    one = load()
    ledger, work = one.resolved_ledger_url, work_paths(one).work_dir
    prepare_state_dir(one)
    enter(tmp_path / "two", monkeypatch)
    two = load()
    assert two.resolved_ledger_url == ledger
    assert work_paths(two).work_dir != work


def test_a_removed_working_folder_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Exit 2, and a project named by hand needs none."""
    config = write(tmp_path / "mine" / "config/hiringcenter.toml", 'dataset = "mine"\n')
    enter(tmp_path / "gone", monkeypatch).rmdir()
    with pytest.raises(UsageError, match="working folder has been removed"):
        open_project()
    project = open_project(tmp_path / "mine")
    assert project.config == config
    assert project.path(Path("data/x.duckdb")).absolute() == tmp_path / "mine/data/x.duckdb"
