"""What is published: a wheel and an sdist that work in an empty environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections import Counter
from importlib import metadata
from pathlib import Path

import pytest

import connector
from connector.sandbox import Sandbox, SandboxOptions
from tests.docs.pages import pages

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheel and the sdist, built from what git tracks."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\n")  # fmt: skip
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source],
        check=True,
        capture_output=True,
    )
    return folder


def test_the_wheel_holds_packages_types_and_templates_and_nothing_else(built: Path):
    """py.typed for type checkers, the report's template, and no tests."""
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"connector/py.typed", "pipelines/py.typed"} <= set(names)
    assert any(name.endswith("report.html.j2") for name in names)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"connector", "pipelines"}


def test_the_sdist_can_be_built_again(built: Path, tmp_path: Path):
    """It carries the license, the pages, the examples of settings; its wheel is the wheel."""
    (sdist,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"} <= names
    assert {f"config/{path.name}" for path in (ROOT / "config").glob("*example*")} <= names
    assert {each.name for each in pages()} <= names
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
         "-w", tmp_path, sdist],
        check=True, capture_output=True,
    )  # fmt: skip
    (again,) = tmp_path.glob("*.whl")
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(wheel).namelist()


def test_the_version_comes_from_one_place(built: Path):
    """pyproject.toml: the files' names, the module and the changelog's newest entry follow."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert version == connector.__version__
    assert {path.name.split("-")[1].removesuffix(".tar.gz") for path in built.iterdir()} == {
        version
    }
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == version


def pins(lock: str) -> dict[str, set[str]]:
    """Distribution → the hashes that its lock allows."""
    text = (ROOT / "config" / lock).read_text().replace("\\\n", " ")
    found = re.findall(r"^([\w.-]+==\S+)(.*)$", text, re.MULTILINE)
    return {name: set(re.findall(r"sha256:\w+", rest)) for name, rest in found}


def test_the_lock_of_the_image_is_a_part_of_the_lock_of_make_setup():
    """So every set-up of the project has tried all versions and hashes that the image installs."""
    ours, tried = pins("requirements.lock"), pins("requirements-dev.lock")
    assert len(ours) > 50
    assert {name: tried.get(name) for name in ours} == ours


def empty_environment(folder: Path, distributions: set[str]) -> Path:
    """Python with these distributions alone, linked from where this test runs; its bin/."""
    venv.create(folder, symlinks=True)
    (target,) = folder.glob("lib/python3*/site-packages")
    tops = {each: _tops(each) for each in metadata.distributions()}
    owners = Counter(top for found in tops.values() for top in found)
    by_name = {re.sub(r"[-_.]+", "-", each.name).lower(): each for each in tops}
    for name in distributions & by_name.keys():  # others are for other systems or Pythons
        found = by_name[name]
        shared = {top for top in tops[found] if owners[top] > 1}
        for top in tops[found] - shared:
            _link(target / top, Path(str(found.locate_file(top))))
        for file in (found.files or ()) if shared else ():
            if file.parts[0] in shared:
                _link(target / file, Path(str(file.locate())))
    return folder / "bin"


def _tops(distribution: metadata.Distribution) -> set[str]:
    """Files and folders of a distribution, right below site-packages: from the text of its list,
    since reading a list into objects takes longer than installing."""
    lines = (distribution.read_text("RECORD") or "").splitlines()
    tops = {re.split(r"[/,]", line.strip('"'), maxsplit=1)[0] for line in lines if line}
    return tops - {".."}  # its commands


def _link(link: Path, target: Path) -> None:
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(built: Path, tmp_path: Path):
    """With what its lock names and nothing else: version, check and a pull from the sandbox."""
    (wheel,) = built.glob("*.whl")
    names = {name.partition("==")[0] for name in pins("requirements.lock")}
    binaries = empty_environment(tmp_path / "venv", names)
    pip = [sys.executable, "-m", "pip", "--python", binaries / "python"]
    for arguments in (["install", "-q", "--no-deps", "--no-compile", wheel], ["check"]):
        subprocess.run([*pip, *arguments], check=True, capture_output=True, cwd=tmp_path)
    with Sandbox(SandboxOptions(prospects=30, notes=20, tasks=10, meetings=5)) as sandbox:
        environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "HIRINGCENTER_API_KEY": sandbox.api_key,
            "HIRINGCENTER_BASE_URL": sandbox.url,
        }

        def run(*arguments: str) -> str:
            return subprocess.run(
                [binaries / "hiringcenter", *arguments],
                check=True, capture_output=True, text=True, cwd=tmp_path, env=environment,
            ).stdout  # fmt: skip

        assert run("--version").startswith("hiringcenter 0.")
        assert "ok    key" in run("check")
        assert '"rows_read":30' in run("pull", "--json")


@pytest.mark.parametrize("way", ["command line", "environment"])
def test_arguments_for_make_are_for_that_make_alone(tmp_path: Path, way: str):
    """`make test ARGS="-k one"`: the makes that the suite runs itself have none."""
    (tmp_path / "inner.mk").write_text(f"include {ROOT}/Makefile\nprobe:\n\t@echo 'got $(ARGS)'\n")
    (tmp_path / "outer.mk").write_text(
        f"include {ROOT}/Makefile\nprobe:\n\t@echo 'got $(ARGS)'; make -s -f inner.mk probe\n"
    )
    given = ["ARGS=-k one"] if way == "command line" else []
    answer = subprocess.run(
        ["make", "-s", "-f", "outer.mk", "probe", *given], cwd=tmp_path, text=True, check=True,
        env=os.environ | ({} if given else {"ARGS": "-k one"}), stdout=subprocess.PIPE,
    )  # fmt: skip
    assert answer.stdout.splitlines() == ["got -k one", "got "]
