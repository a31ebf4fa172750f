"""Settings: order of the places, refused names and values, nothing secret in an error."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import platformdirs
import pytest
from pydantic import BaseModel

from connector.errors import BadSetting, ConfigurationError, MissingKey, UnknownSetting
from connector.settings import Account, PushJob, RateLimit, Settings, account_settings, load
from tests.loaded_settings import load_with

KEY = "hc_live_0123456789abcdef"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_flags_beat_environment_beat_dotenv_beat_toml_beat_defaults(tmp_path: Path):
    """Each place overrides the weaker ones, also inside a section."""
    toml = 'dataset = "toml"\nstate_dir = "toml"\nbase_url = "https://toml.example"\n'
    write(tmp_path / "config/hiringcenter.toml", toml + "[pull]\npage_size = 50\nchunk_pages = 7\n")
    write(
        tmp_path / ".env", "HIRINGCENTER_DATASET=dotenv\nHIRINGCENTER_STATE_DIR=dotenv\nOTHER=1\n"
    )
    environ = {"HIRINGCENTER_DATASET": "environment", "HIRINGCENTER_PULL__PAGE_SIZE": "25"}
    settings = load_with(environ, overrides={"dataset": "flag"})
    assert settings.dataset == "flag"
    assert load_with(environ).dataset == "environment"
    assert load().dataset == "dotenv"
    assert settings.state_dir == Path("dotenv")
    assert settings.base_url == "https://toml.example"
    assert (settings.pull.page_size, settings.pull.chunk_pages) == (25, 7)
    assert settings.pull.chunk_s == 5.0


def test_an_empty_variable_hides_that_of_the_file(tmp_path: Path):
    """`HIRINGCENTER_API_KEY= make sync` is the sandbox's, whatever `.env` has."""
    write(tmp_path / ".env", "HIRINGCENTER_API_KEY=k\nHIRINGCENTER_DATASET=dotenv\n")
    settings = load_with({"HIRINGCENTER_API_KEY": "", "HIRINGCENTER_DATASET": ""})
    assert (settings.api_key, settings.dataset) == (None, "hiringcenter")


def test_a_list_that_isnt_json_is_refused(tmp_path: Path):
    """In words, with the way to write it."""
    with pytest.raises(ConfigurationError, match="Write a list as JSON"):
        load_with({"HIRINGCENTER_PULL__NOTES__EXCLUDE_COLUMNS": "body"})


def test_a_configuration_may_come_through_a_pipe(tmp_path: Path):
    """As from a program that decrypts it: `--config <(sops -d …)`."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("dataset = 'piped'\n",))
    writer.start()
    assert load(pipe).dataset == "piped"
    writer.join()


def test_defaults_are_what_the_readme_says():
    """With nothing configured: the vendor's host and limits, DuckDB here, the user's own state."""
    settings = load()
    assert settings.base_url == "https://api.hiringcenterpro.com/v2"
    assert settings.rate_limits == (RateLimit(300, 60.0), RateLimit(6000, 3600.0))
    assert settings.destination == "duckdb"
    assert settings.duckdb_path == Path("data/hiringcenter.duckdb")
    state = platformdirs.user_state_path("hiringcenter")
    assert state.is_relative_to(Path.cwd() / "home"), "tests never touch the user's own"
    assert settings.resolved_ledger_url == f"sqlite:///{state / 'ledger.db'}"


@pytest.mark.parametrize(
    ("place", "text", "name", "suggestion"),
    [
        ("environment", "HIRINGCENTER_APIKEY", "HIRINGCENTER_APIKEY", "HIRINGCENTER_API_KEY"),
        ("environment", "HIRINGCENTER_PULL__FULL_SHAER", "FULL_SHAER", "FULL_SHARE"),
        ("environment", "HIRINGCENTER_PUSH__SPRING__MDOE", "mdoe", "mode"),
        ("toml", "datset = 'x'", "datset", "dataset"),
        ("toml", "account = 'x'", "account", "accounts"),
        ("toml", "[pull]\nfull_shares = 1", "full_shares", "full_share"),
        ("toml", "[push.spring]\nmdoe = 'upsert'", "mdoe", "mode"),
        ("toml", "[pull.notes]\nexclude = ['body']", "exclude", "exclude_columns"),
        ("dotenv", "HIRINGCENTER_DATASETS=x", "HIRINGCENTER_DATASETS", "HIRINGCENTER_DATASET"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(
    tmp_path: Path, place: str, text: str, name: str, suggestion: str
):
    """A typo never silently means the default."""
    if place == "toml":
        write(tmp_path / "config/hiringcenter.toml", text)
    if place == "dotenv":
        write(tmp_path / ".env", text)
    environ = {text: "1"} if place == "environment" else {}
    with pytest.raises(UnknownSetting, match=rf"{name}.*Did you mean .*{suggestion}'"):
        load_with(environ)


@pytest.mark.parametrize("name", ["DATASET = 'x'", "API_KEY = 'x'", "[HTTP]\nretry_total_s = 3"])
def test_names_of_a_file_are_lower_case(tmp_path: Path, name: str):
    """Else one of `[http]` and `[HTTP]` would be dropped without a word."""
    write(tmp_path / "config/hiringcenter.toml", f"{name}\n[http]\nrequest_timeout_s = 7")
    with pytest.raises(UnknownSetting, match=r"hiringcenter\.toml: unknown setting"):
        load()


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_an_unknown_name_of_a_job_is_not_put_down_to_the_file(tmp_path: Path, place: str):
    """Whoever looks for it in the TOML file would look in vain."""
    write(tmp_path / "config/hiringcenter.toml", "[push.spring]\nfile = 'x.csv'")
    name = "HIRINGCENTER_PUSH__SPRING__NOPE"
    if place == ".env":
        write(tmp_path / ".env", f"{name}=1")
    with pytest.raises(UnknownSetting, match=r"environment or \.env \[push\.spring\]: .*'nope'"):
        load_with({name: "1"} if place == "environment" else {})


def test_a_name_without_a_value_in_dotenv_sets_nothing(tmp_path: Path):
    """As where Docker would pass it on."""
    names = "HTTP__RETRY_TOTAL_S", "WRITES__DEFAULT_REGION", "PUSH__SPRING__FILE"
    write(tmp_path / ".env", "".join(f"HIRINGCENTER_{name}\n" for name in names))
    assert (load().http.retry_total_s, load().push) == (300.0, {})


def test_a_malformed_line_in_dotenv_is_warned_about_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Also with accounts, whose keys may be in it."""
    write(tmp_path / ".env", "HIRINGCENTER_API_KEY_EAST=secret\nno name, no value\n")
    write(
        tmp_path / "config/hiringcenter.toml",
        '[accounts.east]\napi_key_env = "HIRINGCENTER_API_KEY_EAST"',
    )
    assert account_settings(load(), "east").key == "secret"
    assert len(caplog.records) == 1
    assert "line 2" in caplog.text


@pytest.mark.parametrize("name", ["lookback_s", "meetings_past_s", "meetings_ahead_s"])
@pytest.mark.parametrize("value", ["1e12", "inf"])
def test_a_time_that_leaves_the_calendar_is_refused(name: str, value: str):
    """When settings are read: each pull would end as a bug of the connector."""
    with pytest.raises(BadSetting, match=f"{name}: Input should be less than or equal to"):
        load_with({f"HIRINGCENTER_PULL__{name.upper()}": value})


@pytest.mark.parametrize("name", ["base_url", "ledger_url"])
def test_an_address_that_is_a_number_is_refused(tmp_path: Path, name: str):
    """As any other value of the wrong kind: in words, by name."""
    write(tmp_path / "config/hiringcenter.toml", f"{name} = 5")
    with pytest.raises(BadSetting, match=f"{name}: Input should be a valid string"):
        load()


@pytest.mark.parametrize(
    "url",
    [
        "http://api.hiringcenterpro.com/v2",
        "http://10.0.0.5/v2",
        "http://localhost.example.com/v2",
        "ftp://127.0.0.1/v2",
        "api.hiringcenterpro.com/v2",
        "https://user:secret@api.hiringcenterpro.com/v2",
    ],
)
def test_a_base_url_that_would_show_the_key_is_refused(url: str):
    """Plain http goes to loopback only; credentials in the URL end up in logs."""
    with pytest.raises(BadSetting, match="base_url") as raised:
        load_with({"HIRINGCENTER_BASE_URL": url})
    assert "secret" not in str(raised.value)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("host", ["127.0.0.1:80", "127.9.9.9", "[::1]:8080", "localhost:1"])
def test_plain_http_to_loopback_is_fine(host: str):
    """The sandbox is served without TLS."""
    assert load_with({"HIRINGCENTER_BASE_URL": f"http://{host}/v2/"}).base_url.endswith("/v2")


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql://u:hush@h/d",
        "postgresql://u:hush@h:x/d",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_a_ledger_url_that_can_be_no_ledger_is_refused(url: str):
    """The error shows both forms, and no password."""
    with pytest.raises(BadSetting, match="postgresql://user:password@host/database, or") as raised:
        load_with({"HIRINGCENTER_LEDGER_URL": url})
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:hush@h/d?nonsense=1", "'nonsense' isn't a PostgreSQL connection option"),
        ("postgresql://u:hush@h/d?sslmod=require", "Did you mean 'sslmode'"),
        ("postgresql://u:hush@h/d?autocommit=hush", "'autocommit' isn't a PostgreSQL"),
        ("postgresql://u:hush@h/d?sslmode=hush", "sslmode takes one of disable, allow"),
        ("postgresql://u:hush@h/d?connect_timeout=hush", "connect_timeout isn't a whole number"),
        ("postgresql://u:hush@h/d?port=hush", "port isn't a port"),
        ("postgresql://u:5?hush=hush@h/d", "what follows the first ?"),
        ("sqlite:////tmp/l.db?hush=1", "takes no options"),
    ],
)
def test_an_option_of_a_ledger_url_that_no_driver_takes_is_refused(url: str, said: str):
    """Named, without its value, which may be what opens the server."""
    with pytest.raises(BadSetting, match=re.escape(said)) as raised:
        load_with({"HIRINGCENTER_LEDGER_URL": url})
    assert raised.value.exit_code == 2
    assert "hush" not in str(raised.value)


def test_options_that_libpq_knows_are_taken():
    """Also several hosts and their ports, as libpq has them."""
    url = "postgresql:///d?host=a,b&port=5432,5433&sslmode=verify-full&connect_timeout=3&user=u"
    assert load_with({"HIRINGCENTER_LEDGER_URL": url}).resolved_ledger_url == url


def test_postgres_may_be_called_by_its_short_name():
    """libpq and hosting services say `postgres://`."""
    settings = load_with({"HIRINGCENTER_LEDGER_URL": "postgres://u:p@h:5433/d?sslmode=require"})
    assert settings.resolved_ledger_url == "postgresql://u:p@h:5433/d?sslmode=require"


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("300/60s,6000/3600s", ((300, 60), (6000, 3600))),
        (" 5 / 0.5s ", ((5, 0.5),)),
        ("1/1s,2/2s,3/3s", ((1, 1), (2, 2), (3, 3))),
    ],
)
def test_rate_limits_are_any_number_of_windows(text: str, limits: tuple[tuple[int, float], ...]):
    """`count/seconds` + `s`, comma between windows."""
    found = load_with({"HIRINGCENTER_RATE_LIMITS": text}).rate_limits
    assert found == tuple(RateLimit(limit, length_s) for limit, length_s in limits)


@pytest.mark.parametrize(
    "text",
    [
        "300",
        "300/60",
        "0/60s",
        "300/0s",
        "300/60s;6000/3600s",
        "-1/5s",
        f"{10**19}/60s",
        "1/9e9s",
        "1/99999999s",
    ],
)
def test_rate_limits_that_cannot_be_read_are_refused(text: str):
    """The error shows the form."""
    with pytest.raises(BadSetting, match="300/60s,6000/3600s"):
        load_with({"HIRINGCENTER_RATE_LIMITS": text})


def test_the_key_is_in_no_representation_and_its_absence_says_what_to_do():
    """A settings object may be printed; a missing key names the variable and the place."""
    settings = load_with({"HIRINGCENTER_API_KEY": KEY})
    assert settings.key == KEY
    assert KEY not in repr(settings) + str(settings.model_dump())
    with pytest.raises(MissingKey, match="HIRINGCENTER_API_KEY.*Add API Key"):
        _ = load_with({"HIRINGCENTER_API_KEY": ""}).key


def test_a_config_file_that_is_missing_or_broken_is_named(tmp_path: Path):
    """`--config` of a file that isn't there is no reason to use defaults."""
    with pytest.raises(ConfigurationError, match="no such file"):
        load(tmp_path / "absent.toml")
    with pytest.raises(ConfigurationError, match="broken.toml: can't be read as TOML"):
        load(write(tmp_path / "broken.toml", "a = "))


def test_the_example_configuration_is_valid_with_every_line_uncommented(tmp_path: Path):
    """What the example shows can be used as it stands."""
    example = Path(__file__).parents[2] / "config/hiringcenter.example.toml"
    lines = example.read_text().splitlines()
    settings_only = [
        line.removeprefix("# ") for line in lines if line.startswith(("# [", "[")) or " = " in line
    ]
    settings = load(write(tmp_path / "all.toml", "\n".join(settings_only)))
    assert settings.push["spring"].max_changes == 5000
    assert settings.accounts["east"].api_key_env == "HIRINGCENTER_API_KEY_EAST"
    assert load(example) == load()


def test_the_example_configuration_shows_every_setting():
    """Also those of push jobs and accounts; the key and secrets alone belong elsewhere."""
    text = (Path(__file__).parents[2] / "config/hiringcenter.example.toml").read_text()
    shown = set(re.findall(r"^(?:# )?(\w+) = ", text, re.MULTILINE))
    shown |= set(re.findall(r"^(?:# )?\[(\w+)", text, re.MULTILINE))
    shown |= set(re.findall(r"^(?:# )?\[pull\.(\w+)", text, re.MULTILINE))

    def names(model: type[BaseModel]) -> Iterator[str]:
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from names(field.annotation)
            yield name

    known = {*names(Settings), *names(PushJob), *names(Account)}
    alike = {"tasks", "meetings"}  # as [pull.prospects] and [pull.notes]
    assert known - shown == {"api_key", "webhook_secrets", "project", *alike}


def test_an_account_has_its_own_key_and_places(tmp_path: Path):
    """Its key comes from the variable it names; a place it doesn't name is made from its name."""
    toml = (
        '[accounts.east]\napi_key_env = "HIRINGCENTER_API_KEY_EAST"\n'
        '[accounts.west]\napi_key_env = "WEST"\ndataset = "west"\n'
    )
    config = write(tmp_path / "c.toml", toml)
    environ = {"HIRINGCENTER_API_KEY_EAST": KEY, "HIRINGCENTER_API_KEY": "other"}
    settings = load_with(environ, config)
    with mock.patch.dict(os.environ, environ):
        east = account_settings(settings, "east")
    assert (east.key, east.dataset) == (KEY, "hiringcenter_east")
    assert east.duckdb_path == Path("data/hiringcenter_east.duckdb")
    west = account_settings(settings, "west")
    assert west.dataset == "west"
    with pytest.raises(MissingKey, match="WEST"):
        _ = west.key
    with pytest.raises(UnknownSetting, match="Accounts: east, west"):
        account_settings(settings, "eats")
