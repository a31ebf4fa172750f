"""What config/ gives people to run this with: cron, systemd, a container; tried where it can be."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from connector.sandbox import Sandbox, SandboxOptions
from connector.settings import Settings
from pipelines.cli import build_app

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
BIN = Path(sys.executable).parent
HADOLINT = shutil.which("hadolint", path=f"{BIN}:{os.environ['PATH']}")
SYSTEMD = shutil.which("systemd-analyze")
FIELD = re.compile(r"\*|\d{1,2}")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder as cron's lines find it, and the bare environment that cron gives them."""
    with Sandbox(SandboxOptions(prospects=30, notes=20, tasks=10, meetings=5)) as sandbox:
        yield tmp_path, {
            "PATH": "/usr/bin:/bin", "HOME": str(tmp_path),
            "HIRINGCENTER_API_KEY": sandbox.api_key, "HIRINGCENTER_BASE_URL": sandbox.url,
        }  # fmt: skip


def cron_lines() -> list[tuple[list[str], str]]:
    """(five fields, command) of each line with a schedule."""
    lines = (CONFIG / "crontab.example").read_text().splitlines()
    parts = [line.split(maxsplit=5) for line in lines if re.match(r"[\d*]", line)]
    return [(part[:5], part[5]) for part in parts]


_LOG_LINE = re.compile(r"timestamp=\S+Z level=(warning|error) event=\S+ .*run_id=\d{8}T\d{6}-\w+")


def test_cron_mails_nothing_while_all_is_well_and_log_lines_when_it_is_not(
    home: tuple[Path, dict[str, str]],
):
    """Each line as cron runs it, through sh, far from the project: it mails whatever is printed.
    A push with a bad row, a push whose file is missing, a second run during the first, old data."""
    folder, environment = home

    def cron(command: str) -> str:
        """The mail that this line would send."""
        paths = {"HC": str(BIN / "hiringcenter"), "PROJECT": str(folder)}
        ended = subprocess.run(
            ["/bin/sh", "-c", command], env=environment | paths, timeout=500, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/",
        )  # fmt: skip
        return ended.stdout

    (_, sync), (_, full), (_, switch) = cron_lines()
    assert "event=status.stale" in cron(switch), "nothing was pulled yet"
    people = folder / "people.csv"
    people.write_text("First Name,Last Name,Email\nAda,Byron,ada@example.com\n")
    (folder / "config").mkdir()
    (folder / "config/hiringcenter.toml").write_text('[push.people]\nfile = "people.csv"\n')
    assert [cron(line) for line in (sync, full, switch)] == ["", "", ""]
    assert "event=status.stale" in cron(switch.replace("2h", "0s"))

    with people.open("a") as more:
        more.write("Bob,Lee,not-an-address\n")
    with (folder / "config/hiringcenter.toml").open("a") as more:
        more.write('[push.gone]\nfile = "gone.csv"\n')
    mail = cron(sync).splitlines()
    assert any("event=push.ended" in line and "rejected=1" in line for line in mail)
    assert any("gone.csv" in line for line in mail)
    assert all(_LOG_LINE.match(line) for line in mail), mail
    assert "not-an-address" not in "".join(mail), "what a cell holds is in the rejects file alone"
    assert mail == (folder / "sync.log").read_text().splitlines()[-len(mail) :]


def test_cron_schedules_are_schedules():
    """Five fields each, and no `%`, which cron would take for a line's end."""
    assert len(cron_lines()) == 3
    for fields, command in cron_lines():
        assert all(FIELD.fullmatch(field) for field in fields)
        assert "%" not in command


def units() -> dict[str, configparser.ConfigParser]:
    found = {}
    for path in sorted((CONFIG / "systemd").iterdir()):
        parser = configparser.ConfigParser(interpolation=None, strict=True)
        parser.optionxform = str  # type: ignore[assignment, method-assign]
        parser.read(path)
        found[path.name] = parser
    return found


def test_systemd_units_say_what_the_exit_codes_mean():
    """75 (held) isn't a failure, rejected rows are mailed; it runs as a user with a state directory
    of its own, and its timer starts it."""
    service, timer = units()["hiringcenter-sync.service"], units()["hiringcenter-sync.timer"]
    assert service["Service"]["SuccessExitStatus"] == "75"
    assert service["Service"]["StateDirectory"] == "hiringcenter"
    assert "HIRINGCENTER_STATE_DIR=%S/hiringcenter" in service["Service"]["Environment"]
    mailer = service["Unit"]["OnFailure"].replace("%N", "")
    assert mailer in units(), "the unit that mails a failure is there"
    assert service["Service"]["User"] != "root"
    assert timer["Install"]["WantedBy"] == "timers.target"
    command = shlex.split(service["Service"]["ExecStart"])[1:]
    subprocess.run(
        [BIN / "hiringcenter", *command, "--help"], check=True, capture_output=True, timeout=500
    )


@pytest.mark.skipif(SYSTEMD is None, reason="no systemd on this machine")
def test_systemd_itself_finds_no_fault(tmp_path: Path):
    """Unknown directives, bad values, dangling references: each would be a line of output."""
    for path in (CONFIG / "systemd").iterdir():
        text = path.read_text().replace("/opt/hiringcenter/.venv/bin", str(BIN))
        (tmp_path / path.name).write_text(text)
    assert SYSTEMD is not None
    done = subprocess.run(
        [SYSTEMD, "verify", *sorted(map(str, tmp_path.iterdir()))],
        capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


STAND_IN = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print("began", flush=True)
signal.sigwait({signal.SIGTERM})
print("stopped", flush=True)
"""


def manifest_commands() -> dict[str, list[str]]:
    """Every `hiringcenter` command line of each manifest, without placeholders and shell."""
    compose = yaml.safe_load((CONFIG / "compose.yaml").read_text())["services"]
    workflow = yaml.safe_load((CONFIG / "github-workflow.yml").read_text())
    (job,) = workflow["jobs"].values()
    (_, cron_job) = yaml.safe_load_all((CONFIG / "kubernetes.yaml").read_text())
    (container,) = cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    in_shell = {
        "compose.yaml": " ".join(compose["sync"]["command"]),
        "github-workflow.yml": "\n".join(step.get("run", "") for step in job["steps"]),
    }
    found = {
        name: re.findall(r"\bhiringcenter ([^;|\n]+)", script) for name, script in in_shell.items()
    }
    found["compose.yaml"] += [" ".join(compose["by-hand"]["command"])]
    found["kubernetes.yaml"] = [" ".join(container["args"])]
    return found


def test_commands_of_the_manifests_are_commands(capsys: pytest.CaptureFixture[str]):
    """Each is parsed with all its options by the command line itself."""
    app = build_app()
    for name, lines in manifest_commands().items():
        assert lines, name
        for line in lines:
            words = [word for word in shlex.split(line) if word != "$FULL"]
            assert app([*words, "--help"], "hiringcenter", standalone_mode=False) == 0, (
                f"{name}: {line}"
            )
            assert f"Usage: hiringcenter {words[0]}" in capsys.readouterr().out


def test_manifests_set_what_the_connector_reads():
    """Names of variables and of settings are right, and exit codes mean what the reference says."""
    known = re.findall(r"`(HIRINGCENTER_\w+)`", (ROOT / "docs/reference/settings.md").read_text())
    own = {"HIRINGCENTER_PROJECT"}  # compose's: the folder that is mounted
    for name in manifest_commands():
        text = (CONFIG / name).read_text()
        named = set(re.findall(r"\bHIRINGCENTER_[A-Z_]+", text))
        assert named - own <= set(known), name
        assert "DESTINATION__POSTGRES__CREDENTIALS" in text
        assert "HIRINGCENTER_LEDGER_URL" in named, "nothing is kept on the machine"
    settings, cron_job = yaml.safe_load_all((CONFIG / "kubernetes.yaml").read_text())
    tree = tomllib.loads(settings["data"]["hiringcenter.toml"])
    Settings.model_validate(tree)
    spec = cron_job["spec"]["jobTemplate"]["spec"]
    (fail, _) = spec["podFailurePolicy"]["rules"]
    assert fail["onExitCodes"]["values"] == [2, 3, 75]
    user = dict(instructions())["USER"]
    assert spec["template"]["spec"]["securityContext"]["runAsUser"] == int(user)


def test_a_stop_of_the_compose_loop_reaches_the_command_and_ends_the_loop(tmp_path: Path):
    """SIGTERM for the whole group, as the container's init sends it: the command ends in its own
    time, and no other one begins."""
    compose = yaml.safe_load((CONFIG / "compose.yaml").read_text())["services"]
    (loop,) = compose["sync"]["command"]
    stand_in = tmp_path / "hiringcenter"
    stand_in.write_text(f"#!{sys.executable} -IS{STAND_IN}")
    stand_in.chmod(0o755)
    with subprocess.Popen(
        [*compose["sync"]["entrypoint"], loop], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, start_new_session=True,
    ) as shell:  # fmt: skip
        assert shell.stdout is not None
        assert shell.stdout.readline() == "began\n"
        os.killpg(shell.pid, signal.SIGTERM)
        assert shell.stdout.read() == "stopped\n"
    assert "TINI_KILL_PROCESS_GROUP" in compose["sync"]["environment"]
    assert compose["sync"]["init"] is True


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile, continued lines joined."""
    text = (CONFIG / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def copied() -> list[str]:
    """What the Dockerfile takes from the checkout."""
    return [name for word, rest in instructions() if word == "COPY" for name in rest.split()[:-1]]


@pytest.mark.skipif(HADOLINT is None, reason="hadolint has no wheel for this machine")
def test_the_dockerfile_passes_its_linter():
    """Every rule of hadolint, none switched off."""
    assert HADOLINT is not None
    done = subprocess.run(
        [HADOLINT, "--no-color", CONFIG / "Dockerfile"],
        capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")


def test_the_container_runs_unprivileged_and_stops_at_a_checkpoint():
    """Its last user is a number that isn't root's; SIGTERM reaches the command itself."""
    found = dict(instructions())
    assert int(found["USER"]) > 0
    assert found["STOPSIGNAL"] == "SIGTERM"
    assert found["ENTRYPOINT"] == '["hiringcenter"]'  # no shell in between that eats signals
    assert found["WORKDIR"] == found["VOLUME"] == "/data"


def test_nothing_but_what_is_copied_reaches_the_build():
    """Keys in .env, data and ledgers stay out of the context; what is copied is in it."""
    rules = [
        line
        for line in (CONFIG / "Dockerfile.dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert rules[0] == "*"
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    assert sorted(allowed) == sorted(copied())
    for secret in (".env", ".hiringcenter", "data", "config/hiringcenter.toml", ".git"):
        assert not any(fnmatch(secret, rule) for rule in allowed)


def test_the_workflow_runs_what_people_run():
    """Every step is a target of the Makefile; every supported Python is tested."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    called = {target for step in steps for target in step["run"].removeprefix("make ").split()}
    tested = {"test", "test-airflow", "test-dagster", "test-old-duckdb"}
    assert called == {"setup", "lint", "types", *tested}
    assert called <= targets
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = re.findall(r":: Python :: (3\.\d+)", " ".join(project["classifiers"]))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"] == versions


def test_what_the_fast_suite_selects_is_there():
    """A test that was renamed would leave it without a word."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (selected,) = re.findall(r"^FAST := (.*)$", makefile, re.MULTILINE)
    for word in selected.split():
        path, _, name = word.removeprefix("--ignore=").partition("::")
        assert (ROOT / path).exists(), word
        assert not name or f"def {name}(" in (ROOT / path).read_text(), word


@pytest.mark.slow
def test_what_is_copied_is_enough_to_install_it_all(tmp_path: Path):
    """A wheel built from it alone has every module, type marker and template of the checkout."""
    source = tmp_path / "src"
    for name in copied():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
         "-w", tmp_path, source],
        check=True, capture_output=True, timeout=500,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    built = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    kept = {
        path.relative_to(ROOT).as_posix()
        for package in ("connector", "pipelines")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert built == kept
