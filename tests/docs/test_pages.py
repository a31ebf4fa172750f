"""The pages are executed: every command in them, every query, every example of code."""

from __future__ import annotations

import re
import subprocess
import sys

import duckdb
import pytest

from tests.docs.pages import page, pages
from tests.docs.project import BIN, ReadersProject

README = page("README.md")
# run elsewhere: by this suite itself, by tests/airflow, or by a reader who follows a page first
ELSEWHERE = (
    "git ", "make setup", "make test", "make lint", "make bench", "pip install", "export", "source",
)  # fmt: skip
EXPECTED_CODES = {0, 3}  # 3: rows were rejected


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_runs(readers_project: ReadersProject, subtests: pytest.Subtests):
    """As it stands on its page, in the order of the pages."""
    folder = readers_project.folder
    (accounts,) = (
        block for each in pages() for block in each.blocks("toml") if "[accounts.east]" in block
    )
    (folder / "accounts.toml").write_text(accounts)
    lines = dict.fromkeys((line, each.name) for each in pages() for line in each.commands)
    ran = set[str]()
    for line, name in lines:
        if line.startswith(ELSEWHERE) or line in ran or line == "make sync":
            continue
        ran.add(line)
        if "--account" in line or "--all-accounts" in line:
            line = f"{line} --config accounts.toml"
        if line.startswith("duckdb "):
            line = f'{line} -c "SELECT count(*) FROM prospects"'
        with subtests.test(line, page=name):
            code, output = readers_project.run(line)
            assert code in EXPECTED_CODES, output


@pytest.mark.slow
def test_the_first_screen_is_what_make_sync_prints(readers_project: ReadersProject):
    """Without a key, line by line; only how long it took may differ. It ends with a query."""
    folder, environment = readers_project.folder, readers_project.environment
    keyless = {name: value for name, value in environment.items() if "HIRINGCENTER" not in name}
    done = subprocess.run(
        ["make", "--old-file=.venv/.installed", "sync"], cwd=folder, env=keyless, check=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500,
    )  # fmt: skip
    screen = README.text.partition("$ make sync\n```\n```\n")[2].partition("```")[0]
    # on a busy machine a few minutes, or a second of waiting, which is shown from one second on
    took = r"(?<=requests in )(\d+ (h|min) ?)*([\d.]+ s)?(, .* of them waiting)?(?=\.$)"
    shown, printed = (re.sub(took, "", text, flags=re.M) for text in (screen, done.stdout))
    assert len(shown.splitlines()) > 5
    assert [line for line in shown.splitlines() if line not in printed.splitlines()] == []
    query = printed.partition("(paste this):\n")[2]
    asked = subprocess.run(
        ["/bin/sh", "-c", query], cwd=folder, env=keyless, check=True, capture_output=True,
        text=True,
    )  # fmt: skip
    assert "people" in asked.stdout


def test_every_query_runs(readers_project: ReadersProject):
    """Ten for analysts, that of the tutorial, and the attached file with views of one's own."""
    folder = readers_project.folder
    queries = [query for each in pages() for query in each.blocks("sql")]
    numbers = [query.split()[1] for query in queries if re.match(r"-- \d+ ", query)]
    assert numbers == [str(number) for number in range(1, 11)]
    (attach,) = [query for query in queries if "ATTACH" in query]
    path = folder / "data/hiringcenter.duckdb"
    with duckdb.connect(str(path), read_only=True) as connection:
        connection.execute("USE hiringcenter.hiringcenter")
        for query in queries:
            if query != attach:
                connection.execute(query).fetchall()
    with duckdb.connect(str(folder / "mine.duckdb")) as connection:
        connection.execute(attach.replace("data/hiringcenter.duckdb", str(path)))
        assert connection.execute("SELECT count(*) FROM open_tasks").fetchone() is not None


def test_an_export_is_written_as_shown(readers_project: ReadersProject):
    """By the two statements of the page, in the copy under its default name."""
    use, copy = re.findall(r"`(USE .*?|COPY .*?)`", page("docs/how-to/importers.md").text)
    folder = readers_project.folder
    with duckdb.connect(str(folder / "data/hiringcenter.duckdb"), read_only=True) as connection:
        connection.execute(use)
        connection.execute(copy.replace("people.csv", str(folder / "exported.csv")))
    assert (folder / "exported.csv").read_text().startswith("id,")


def test_the_python_examples_are_a_dlt_pipeline(readers_project: ReadersProject):
    """They run as shown, one after the other; the key is that of the settings."""
    folder, environment = readers_project.folder, readers_project.environment
    script = "\n".join(page("docs/how-to/dlt.md").blocks("python"))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment | {"HOME": str(folder)},
        text=True, capture_output=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with duckdb.connect(str(folder / "recruiting.duckdb"), read_only=True) as connection:
        ((notes,),) = connection.execute("SELECT count(*) FROM hiringcenter.notes").fetchall()
    assert notes >= 80  # those of the sandbox; the commands of other pages may have added some


def test_the_command_is_where_the_tutorial_says():
    """Activating .venv puts it on the PATH."""
    assert (BIN / "hiringcenter").exists()


def test_the_receiver_can_be_mounted_as_shown(readers_project: ReadersProject):
    """With nothing but a secret in the environment."""
    (script,) = page("docs/how-to/webhooks.md").blocks("python")
    folder = readers_project.folder
    environment = {"HOME": str(folder), "HIRINGCENTER_WEBHOOK_SECRETS": "whsec_x"}
    subprocess.run(
        [sys.executable, "-c", f"{script}\nassert callable(app)"], cwd=folder, env=environment,
        check=True, capture_output=True, timeout=500,
    )  # fmt: skip
