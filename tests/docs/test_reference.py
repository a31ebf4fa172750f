"""docs/reference: complete, and true of the program."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pydantic import BaseModel, SecretStr

from connector import errors
from connector.settings import Settings, load
from connector.source import hiringcenter
from connector.source.dictionary import TABLES as TABLES_IN_WORDS
from connector.source.dictionary import column_text
from connector.upsert.rows.column_mapping import ColumnMapping
from pipelines.cli import build_app
from pipelines.pull.run_tables import documented_columns
from tests.docs.pages import ROOT, codes, page, pages, rows
from tests.docs.project import ReadersProject

COMMANDS = page("docs/reference/commands.md")
SETTINGS = page("docs/reference/settings.md")
TABLES = page("docs/reference/tables.md")
ERRORS = page("docs/reference/errors.md")
NOT_SETTINGS = {"account", "project"}
HEADINGS = {"push": "Push jobs", "accounts": "Accounts"}
RESOURCES = "`[pull.prospects]`, `[pull.notes]`, `[pull.tasks]`, `[pull.meetings]`"


def command_options() -> Iterator[tuple[str, set[str]]]:
    """Each command, and every option of it."""
    from typer.main import get_command

    commands: dict[str, Any] = get_command(build_app()).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        if not command.hidden:
            yield name, {option for each in command.params for option in each.opts}


def documented(markdown: str) -> set[str]:
    """The options in the tables of `markdown`."""
    cells = [code for row in rows(markdown) for code in codes(row[0])]
    return {cell.split()[0] for cell in cells if cell.startswith("-")}


def test_every_command_and_option_is_documented():
    """And no other: each command has its section, and the options of all commands one together."""
    shared = documented(COMMANDS.section("Options of every command"))
    found = dict(command_options())
    assert set(re.findall(r"^## `hiringcenter ([\w-]+)`$", COMMANDS.text, re.M)) == set(found)
    for name, options in found.items():
        own = documented(COMMANDS.section(f"`hiringcenter {name}`"))
        if "It has the options of `push`" in COMMANDS.section(f"`hiringcenter {name}`"):
            own |= documented(COMMANDS.section("`hiringcenter push`")) & options
        options = {option for option in options if option.startswith("-")}
        assert own == options - shared, name
        assert shared - options <= {"-h", "--help"}, name


def section_models(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(heading of the section in the page, model) of each section of the settings."""
    for name, field in model.model_fields.items():
        if model is Settings and name in HEADINGS:
            yield HEADINGS[name], (field.annotation.__args__[1])  # type: ignore[union-attr]
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield f"`[{prefix}{name}]`", field.annotation
            yield from section_models(field.annotation, f"{name}.")


def documented_settings(heading: str) -> dict[str, str]:
    """Name → default of the settings in the first table below a heading."""
    section = re.split(r"^#+ ", SETTINGS.section(heading), flags=re.M)[0]
    return {codes(row[0])[0]: row[1] for row in rows(section)}


@pytest.mark.parametrize(("heading", "model"), [*section_models(Settings)], ids=str)
def test_every_setting_is_documented_with_its_default(heading: str, model: type[BaseModel]):
    """And no other. A default in words stands where there is no value."""
    if heading.startswith("`[pull.") and heading != "`[pull]`":
        heading = RESOURCES
    shown = documented_settings(heading)
    plain = {
        name: field
        for name, field in model.model_fields.items()
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel))
    }
    assert set(shown) == set(plain)
    for name, field in plain.items():
        value = field.default
        if value in (None, ()) or field.is_required():
            assert not codes(shown[name]), f"{name} has no value by default"
        else:
            text = f"{value:g}" if isinstance(value, float) and value < 1 else str(value)
            text = text.removesuffix(".0").lower() if not isinstance(value, str) else text
            text = json.dumps(value) if isinstance(value, tuple) else text
            assert codes(shown[name]) == [text], name


def test_every_variable_is_documented_with_its_default():
    """The names at the top of the tree."""
    shown = {row[0].strip("`"): row[1] for row in rows(SETTINGS.section("Environment variables"))}
    sections = {"http", "pull", "writes", "push", "accounts", "alerts", "telemetry", "logs"}
    sections |= {"webhooks", "watch", "marts"}
    names = set(Settings.model_fields) - NOT_SETTINGS - sections
    assert set(shown) == {f"HIRINGCENTER_{name.upper()}" for name in names}
    defaults = load()
    for name, default in shown.items():
        if not default.startswith("`"):
            continue
        value = getattr(defaults, name.removeprefix("HIRINGCENTER_").lower())
        if name.endswith("RATE_LIMITS"):
            value = ",".join(f"{limit.limit}/{limit.length_s:g}s" for limit in value)
        assert default == f"`{value}`", name


def test_every_setting_is_in_the_example_file():
    """As a comment that can be uncommented."""
    example = (ROOT / "config/hiringcenter.example.toml").read_text()
    named = set(re.findall(r"^(?:# )?(\w+) = ", example, re.MULTILINE))
    for heading, model in section_models(Settings):
        for name, field in model.model_fields.items():
            is_section = isinstance(field.annotation, type) and issubclass(
                field.annotation, BaseModel
            )
            assert is_section or name in named or heading == "Accounts", name


def documented_tables() -> dict[str, dict[str, str]]:
    """Table → column → type, as the page has them."""
    shared = {codes(row[0])[0]: row[1] for row in rows(TABLES.section("Columns of every resource"))}
    found: dict[str, dict[str, str]] = {}
    for name in re.findall(r"^## `(\w+)`$", TABLES.text, re.M):
        own = {codes(row[0])[0]: row[1] for row in rows(TABLES.section(f"`{name}`"))}
        is_resource = name in ("prospects", "notes", "tasks", "meetings")
        found[name] = own | (shared if is_resource else {})
    histories = TABLES.section("`prospects_history`, `tasks_history`")
    versions = {codes(row[0])[0]: row[1] for row in rows(histories)}
    for name in ("prospects", "tasks"):
        left_out = ("_hc_deleted_at", "_hc_unlisted_at")
        copied = {column: kind for column, kind in found[name].items() if column not in left_out}
        found[f"{name}_history"] = copied | versions
    return found


def test_the_dictionary_says_what_the_page_says():
    """Each table's columns, with types and words, in both directions."""
    shared = {codes(row[0])[0]: row[2] for row in rows(TABLES.section("Columns of every resource"))}
    histories = rows(TABLES.section("`prospects_history`, `tasks_history`"))
    versions = {codes(row[0])[0]: row[2] for row in histories}
    shown = documented_tables()
    for name, columns in documented_columns().items():
        words = {"bool": "boolean", "bigint": "integer", "double": "number",
                 "timestamp": "time", "json": "JSON", "text": "text"}  # fmt: skip
        types = {column: words[schema["data_type"]] for column, schema in columns.items()}
        assert types == shown[name], name
        of = name.removesuffix("_history")
        own = {codes(row[0])[0]: row[2] for row in rows(TABLES.section(f"`{of}`"))}
        own |= versions if of != name else {}
        texts = {column: own.get(column) or shared[column] for column in types}
        assert texts.keys() == types.keys()
        for column, text in texts.items():
            plain = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text).replace("`", "")
            assert plain == column_text(name, column), (name, column)
    assert set(shown) == set(documented_columns())
    assert {each for each in shown if not each.endswith("_history")} == set(TABLES_IN_WORDS)


TYPES = {
    "VARCHAR": "text",
    "TIMESTAMP WITH TIME ZONE": "time",
    "BOOLEAN": "boolean",
    "BIGINT": "integer",
    "DOUBLE": "number",
    "JSON": "JSON",
}


def test_every_table_and_column_is_documented(readers_project: ReadersProject):
    """With its type; a pull and a push make exactly these, and those of fields unknown so far."""
    path = readers_project.folder / "data/hiringcenter.duckdb"
    with duckdb.connect(str(path), read_only=True) as connection:
        columns = connection.execute(
            "SELECT table_name, column_name, data_type FROM information_schema.columns "
            "WHERE table_schema = 'hiringcenter'"
        ).fetchall()
    landed: dict[str, dict[str, str]] = {}
    for table, column, data_type in columns:
        landed.setdefault(table, {})[column] = TYPES[data_type]
    shown = documented_tables()
    assert set(shown) - set(landed) <= {"_hc_malformed_records"}
    unknown = {"attendees", "custom_fields", "recurrence", "referral_source"}  # of the mock API
    for table, found in landed.items():
        more = set(found) - set(shown[table])
        assert more <= unknown | ({"updated_at"} if table == "notes" else set()), table
        assert {name: found.get(name) for name in shown[table]} == shown[table], table


def test_every_argument_of_the_source_is_documented():
    """And no other."""
    shown = {codes(row[0])[0] for row in rows(page("docs/how-to/dlt.md").section("Arguments"))}
    assert shown == set(inspect.signature(hiringcenter).parameters)


def error_types(base: type[Exception]) -> Iterator[type[Exception]]:
    for each in base.__subclasses__():
        if each.__module__ == errors.__name__:
            yield each
            yield from error_types(each)


def test_every_error_is_documented_with_its_exit_code():
    """The types that `--json` may name."""
    shown = {codes(row[0])[0]: row[1] for row in rows(ERRORS.section("Types"))}
    found = {each.__name__: each for each in error_types(errors.ConnectorError)}
    assert set(shown) == set(found)
    for name, each in found.items():
        if shown[name].isdecimal():
            assert str(each.exit_code) == shown[name], name  # type: ignore[attr-defined]


def test_messages_are_those_of_the_program():
    """Each phrase stands in the sources, `…` for what differs from case to case."""
    sources = "".join(
        path.read_text()
        for folder in ("connector", "pipelines")
        for path in (ROOT / folder).rglob("*.py")
    )
    said = re.sub(r'"\s*\n\s*f?"', "", sources)  # sentences are written over several lines
    phrases = [codes(row[0])[0] for row in rows(ERRORS.section("Messages"))]
    assert len(phrases) >= 15
    for phrase in phrases:
        literal = re.sub(r"\d{3}", "…", phrase).split("…")
        parts = [part.strip(" (.") for part in literal]
        assert all(part in said for part in parts), phrase


@pytest.mark.parametrize("each", pages(), ids=lambda each: each.name)
def test_settings_shown_are_settings_that_exist(each: Any, tmp_path: Path):
    """Every TOML block loads: as settings, or as a mapping file if it has a section of one."""
    for block in each.blocks("toml"):
        (tmp_path / "shown.toml").write_text(block)
        if re.search(r"^\[(policy|columns|constants)\]$", block, re.M):
            ColumnMapping.load(tmp_path / "shown.toml")
        else:
            load(tmp_path / "shown.toml")


def test_secrets_are_named_as_such():
    """What is kept out of logs and reports isn't given an example value that looks real."""
    for heading, model in section_models(Settings):
        for name, field in model.model_fields.items():
            if SecretStr in getattr(field.annotation, "__args__", ()):
                row = next(row for row in rows(SETTINGS.section(heading)) if f"`{name}`" in row[0])
                assert "secret" in row[2], name
