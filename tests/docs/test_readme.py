"""The README is executed: every command in it, every query, and its links to itself."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from connector.sandbox import Sandbox, SandboxOptions
from connector.settings import load

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent
# run elsewhere: by this suite itself, by tests/airflow, or by whoever follows the README first
ELSEWHERE = ("git clone", "make test", "make lint", "make bench", "pip install")
EXPECTED_CODES = {0, 3}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return [line[2:].partition("   #")[0].strip() for line in lines if line.startswith("$ ")]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder with a real pull in it, as the reader of the README has one."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("Makefile", "pyproject.toml", "config", "connector", "pipelines"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    (folder / ".venv").symlink_to(BIN.parent)
    (folder / "people.csv").write_text("First Name,Last Name,Email\nAda,Byron,ada@example.com\n")
    with Sandbox(SandboxOptions(prospects=120, notes=80, tasks=40, meetings=20)) as sandbox:
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
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        subprocess.run(
            ["hiringcenter", "pull"], cwd=folder, env=environment, check=True, capture_output=True
        )
        yield folder, environment


def runnable() -> list[str]:
    return [
        line for line in dict.fromkeys(commands()) if not line.startswith((*ELSEWHERE, "export"))
    ]


@pytest.mark.parametrize("line", runnable())
def test_every_command_runs(line: str, project: tuple[Path, dict[str, str]]):
    """As it stands in the README; 3 (rows rejected) is an outcome, not a failure."""
    folder, environment = project
    if "--account" in line or "--all-accounts" in line:
        accounts = next(block for block in blocks("toml") if "[accounts.east]" in block)
        (folder / "accounts.toml").write_text(accounts)
        line = f"{line} --config accounts.toml"
    if line.startswith("make "):  # the environment is the one this test runs in
        line = line.replace("make ", "make --old-file=.venv/.installed ", 1)
    if line.startswith("duckdb "):
        line = f'{line} -c "SELECT count(*) FROM prospects"'
    done = subprocess.run(
        shlex.split(line), cwd=folder, env=environment, text=True, capture_output=True,
        check=False, stdin=subprocess.DEVNULL, timeout=240,
    )  # fmt: skip
    assert done.returncode in EXPECTED_CODES, f"{line}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_the_first_screen_is_what_make_sync_prints(project: tuple[Path, dict[str, str]]):
    """Without a key, line by line; only how long it took may differ. It ends with a query."""
    folder, environment = project
    keyless = {name: value for name, value in environment.items() if "HIRINGCENTER" not in name}
    done = subprocess.run(
        ["make", "--old-file=.venv/.installed", "sync"], cwd=folder, env=keyless, check=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240,
    )  # fmt: skip
    screen = README.partition("$ make sync\n```\n```\n")[2].partition("```")[0]
    # on a busy machine a few minutes, or a second of waiting, which is told from one second on
    took = r"(?<=requests in )(\d+ (h|min) ?)*([\d.]+ s)?(, .* of them waiting)?(?=\.$)"
    shown, printed = (re.sub(took, "", text, flags=re.M) for text in (screen, done.stdout))
    assert len(shown.splitlines()) > 5
    assert [line for line in shown.splitlines() if line not in printed.splitlines()] == []
    query = printed.partition("(paste this):\n")[2]
    asked = subprocess.run(
        ["/bin/sh", "-c", query],
        cwd=folder,
        env=keyless,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "people" in asked.stdout


def test_every_query_for_analysts_runs(project: tuple[Path, dict[str, str]]):
    """Ten of them, and the attached file with views of one's own."""
    folder, _ = project
    queries = blocks("sql")
    numbered = [query for query in queries if re.match(r"-- \d+ ", query)]
    assert [query.split()[1] for query in numbered] == [str(n) for n in range(1, 11)]
    with duckdb.connect(str(folder / "data/hiringcenter.duckdb"), read_only=True) as connection:
        connection.execute("USE hiringcenter.hiringcenter")
        for query in numbered:
            connection.execute(query).fetchall()
    (attach,) = [query for query in queries if "ATTACH" in query]
    path = folder / "data/hiringcenter.duckdb"
    with duckdb.connect(str(folder / "mine.duckdb")) as connection:
        connection.execute(attach.replace("data/hiringcenter.duckdb", str(path)))
        assert connection.execute("SELECT count(*) FROM open_tasks").fetchone() is not None


def test_the_python_example_is_a_dlt_pipeline(project: tuple[Path, dict[str, str]]):
    """It runs as shown, with only the key and the address filled in."""
    folder, environment = project
    (example,) = blocks("python")
    script = example.replace(
        'api_key=dlt.secrets["hiringcenter_api_key"]',
        f"api_key={environment['HIRINGCENTER_API_KEY']!r}, "
        f"base_url={environment['HIRINGCENTER_BASE_URL']!r}",
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment | {"HOME": str(folder)},
        text=True, capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with duckdb.connect(str(folder / "recruiting.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM hiringcenter.notes").fetchone() == (80,)


def test_settings_shown_are_settings_that_exist(tmp_path: Path):
    """TOML blocks load; every variable in the table has the default it says."""
    for block in blocks("toml"):
        tomllib.loads(block)
        (tmp_path / "shown.toml").write_text(block)
        load(tmp_path / "shown.toml", environ={})
    defaults = load(environ={})
    rows = re.findall(r"^\| `HIRINGCENTER_(\w+)` \| `([^`]+)` \|", README, re.MULTILINE)
    assert len(rows) == 5
    for name, default in rows:
        value = getattr(defaults, name.lower())
        if name == "RATE_LIMITS":
            value = ",".join(f"{limit.limit}/{limit.length_s:g}s" for limit in value)
        assert str(value) == default, name


def test_troubleshooting_is_by_messages_that_exist():
    """Each phrase stands in the sources, `…` for what differs from case to case."""
    sources = "".join(
        path.read_text()
        for folder in ("connector", "pipelines")
        for path in (ROOT / folder).rglob("*.py")
    )
    said = re.sub(r'"\s*\n\s*f?"', "", sources)  # sentences are written over several lines
    section = README.partition("## Troubleshooting")[2].partition("\n## ")[0]
    phrases = re.findall(r"^\| `([^`]+)`", section, re.MULTILINE)
    assert len(phrases) >= 15
    for phrase in phrases:
        literal = re.sub(r"\d{3}", "…", phrase).split("…")
        parts = [part.strip(" (.") for part in literal]
        assert all(part in said for part in parts), phrase


def test_links_inside_the_readme_lead_somewhere():
    """Contents match headings."""
    headings = {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", README)) <= headings


def test_files_the_readme_names_exist():
    """Recipes and examples."""
    for name in re.findall(r"`((?:config|pipelines)/[\w./]+)`", README):
        assert (ROOT / name).exists() or name == "config/hiringcenter.toml", name
