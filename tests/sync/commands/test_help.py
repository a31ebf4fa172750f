"""`--help`: an overview that isn't cut, and for every command an example that works."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import openpyxl
import pytest

from connector.sandbox import Sandbox
from tests.sync.commands.conftest import Run

COMMANDS = (
    "check",
    "pull",
    "push",
    "plan",
    "apply",
    "undo",
    "forget",
    "sync",
    "verify",
    "status",
    "budget",
    "runs",
    "columns",
    "report",
    "webhooks",
    "watch",
    "sandbox",
)


def examples(run: Run, command: str) -> list[list[str]]:
    """The arguments of each example that the command's help shows."""
    text = " ".join(run(command, "--help").out.split())
    found = re.findall(rf"Example: hiringcenter ({command}.*?)(?= Example: | Options: |$)", text)
    assert found, text
    return [shlex.split(arguments) for arguments in found]


def write_people(arguments: list[str]) -> None:
    """The files that examples of `push` name, as their options describe them."""
    people = [["First Name", "Last Name", "Email"], ["Ada", "Byron", "ada@example.com"]]
    delimiter = ";" if "--delimiter" in arguments else ","
    Path("people.csv").write_text("".join(delimiter.join(row) + "\n" for row in people))
    Path("calls.csv").write_text("email,body\nada@example.com,Called\n")
    workbook = openpyxl.Workbook()
    sheet = workbook.create_sheet("May")
    for row in people:
        sheet.append(row)
    workbook.save("people.xlsx")


def test_the_overview_lists_every_command_in_full(run: Run):
    """No line ends in dots."""
    lines = run("--help").out.splitlines()
    listed = lines[lines.index("Commands:") + 1 :]
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    assert not any(line.endswith("...") for line in listed)


def test_a_command_with_many_options_lists_them_by_what_they_are_for(run: Run):
    """Those that every command has come last; other commands have one list."""
    for command in ("push", "plan"):
        lines = run(command, "--help").out.splitlines()
        titles = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
        assert (len(titles), titles[-1]) == (6, "As in every command:")
    assert "\nOptions:\n" in run("undo", "--help").out


@pytest.mark.parametrize("command", COMMANDS)
def test_h_is_help(run: Run, command: str):
    """As in most programs. On 80 columns it has each option next to its text."""
    short = run(command, "-h")
    assert (short.code, short.out) == (0, run(command, "--help").out)
    lines = short.out.splitlines()
    assert max(map(len, lines)) <= 80
    listed = re.split(r"^\S.*:\n", short.out, maxsplit=1, flags=re.MULTILINE)[1]
    options = [line for line in listed.splitlines() if line.startswith("  -")]
    assert options
    assert [line for line in options if not re.search(r"\S  +\S", line)] == []


@pytest.mark.parametrize(
    ("words", "completed"), [("pu", ["pull", "push"]), ("pull --take", ["--take-over"])]
)
def test_shells_complete_commands_and_options(words: str, completed: list[str]):
    """As the shell asks after `--install-completion`."""
    asked = {
        "_HIRINGCENTER_COMPLETE": "complete_bash", "COMP_WORDS": f"hiringcenter {words}",
        "COMP_CWORD": str(len(words.split())),
    }  # fmt: skip
    binary = Path(sys.executable).with_name("hiringcenter")
    answer = subprocess.run(
        [binary], env=os.environ | asked, capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == completed


@pytest.mark.parametrize("command", [each for each in COMMANDS if each not in ("watch", "sandbox")])
def test_the_example_of_every_command_works(
    run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, command: str
):
    """As it stands there; those that end by themselves."""
    monkeypatch.setenv("BROWSER", "true")
    monkeypatch.setenv("HIRINGCENTER_ACCOUNTS__EAST__API_KEY_ENV", "HIRINGCENTER_API_KEY")
    if command in ("status", "plan", "verify"):
        run("pull", "-q", *(["prospects"] if command == "plan" else []))
    for arguments in examples(run, command):
        if "serve" in arguments or "--every" in arguments:
            continue
        write_people(arguments)
        if command == "apply":
            run("check")
            run("plan", "people.csv", "--out", "people.hcplan")
        if command == "undo":
            arguments[1] = json.loads(run("push", "people.csv", "--json").out)["run_id"]
        ended = run(*arguments)
        # whom a push has created can't be taken back
        assert ended.code == (3 if command == "undo" else 0), ended.err


def test_the_example_of_the_sandbox_serves(run: Run):
    """Until it is stopped."""
    (shown,) = examples(run, "sandbox")
    arguments = ["0" if part == "8808" else part for part in shown]
    binary = Path(sys.executable).with_name("hiringcenter")
    with subprocess.Popen(
        [binary, *arguments, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as served:
        assert served.stdout is not None
        assert "http://127.0.0.1:" in served.stdout.readline()
        served.send_signal(signal.SIGTERM)
        assert served.wait(500) == 128 + signal.SIGTERM
