"""HiringCenter every hour, in Airflow: one mapped task per account, each calling `hiringcenter`.

The scheduler never imports the connector: the command lives in an environment of its own.

Airflow variables (all optional)
    hiringcenter_bin       path of the `hiringcenter` command; default: found on PATH
    hiringcenter_home      folder it runs in: config/, .env and relative paths are looked up there
    hiringcenter_accounts  JSON list of `[accounts.<name>]`; default: the one unnamed account
    hiringcenter_command   `sync` (default), or a command with arguments, as text or as a JSON list:
                           pull notes --full · ["push", "people.csv", "--max-changes", "500"]
Airflow connections (optional; a key in the worker's environment or in .env works too)
    hiringcenter_default, or hiringcenter_<account>: password = API key; extra may name the
    variable that the account reads it from: {"api_key_env": "HIRINGCENTER_API_KEY_EAST"}

A run by hand asks for `full` and `resources`; with either of them it is a pull.

Each list that a run has read is an event of the asset `hiringcenter_<resource>`, or of an account,
`hiringcenter_<account>_<resource>`, with counts of rows: other DAGs can be scheduled on it.

What the exit codes become: 0 success · 3 success with a warning (see the summary) ·
75 skipped (another run holds the lock) · 2, or a refused key, failed without retries ·
everything else: retried, which is safe, since a run resumes where the last one stopped.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import tempfile
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.sdk import (
    Asset,
    AssetAlias,
    Connection,
    Param,
    Variable,
    dag,
    get_current_context,
    task,
)
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSkipException,
)

log = logging.getLogger(__name__)
# adapt these in your copy
SCHEDULE = "@hourly"
POOL = "default_pool"  # it must exist: `airflow pools set hiringcenter 2 "accounts at once"`
EXECUTION_TIMEOUT = timedelta(hours=6)  # a run that is cut off is retried, and resumes

RESOURCES = ("prospects", "notes", "tasks", "meetings")
LISTS = AssetAlias("hiringcenter")
USAGE, REJECTS, HELD = 2, 3, 75
NO_ACCOUNT = ""


def _variable(name: str, default: Any, *, json_list: bool = False) -> Any:
    return Variable.get(f"hiringcenter_{name}", default=default, deserialize_json=json_list)


def _command(account: str, params: dict[str, Any]) -> list[str]:
    command = _variable("command", "sync")
    is_list = command.lstrip().startswith("[")
    arguments = json.loads(command) if is_list else shlex.split(command)
    if params["full"] or params["resources"]:
        arguments = ["pull", *params["resources"], *(["--full"] if params["full"] else [])]
    arguments += ["--json", *(["--account", account] if account else [])]
    return [_variable("bin", "hiringcenter"), *arguments]


def _environment(account: str) -> dict[str, str]:
    """The worker's environment, with the key of the account's connection where there is one."""
    environment = dict(os.environ)
    try:
        connection = Connection.get(f"hiringcenter_{account or 'default'}")
    except AirflowNotFoundException:
        return environment
    default_name = f"HIRINGCENTER_API_KEY_{account.upper()}" if account else "HIRINGCENTER_API_KEY"
    name = connection.extra_dejson.get("api_key_env", default_name)
    if connection.password:
        environment[name] = connection.password
    return environment


def _run(account: str, params: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The command's exit code and its JSON summary; its log lines go to the task's log.

    If the task is killed, the command is terminated and stops at its next safe point.
    """
    with tempfile.TemporaryFile() as stdout:
        child = subprocess.Popen(  # noqa: S603 - the command is the operator's own variable
            _command(account, params),
            env=_environment(account),
            cwd=_variable("home", None),
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            for line in child.stderr or ():
                log.info("%s", line.rstrip())
            code = child.wait()
        except BaseException:
            child.terminate()
            child.wait()
            raise
        stdout.seek(0)
        lines = stdout.read().decode().strip().splitlines()
    return code, json.loads(lines[-1]) if lines else {}


def _tell_assets(events: Any, account: str, summary: dict[str, Any]) -> None:
    """One event for each list that was read, even if nothing was new: a run that failed may have
    written rows, and Airflow keeps events of successful tasks only."""
    resources = (summary.get("pull") or summary).get("resources") or {}
    prefix = f"hiringcenter_{account}" if account else "hiringcenter"
    for name, counts in resources.items():
        extra = {key: counts.get(key, 0) for key in ("rows_written", "rows_deleted", "rows")}
        asset = Asset(f"{prefix}_{name}", uri=f"hiringcenter://{account or 'default'}/{name}")
        events[LISTS].add(asset, extra=extra)


def _errors(summary: dict[str, Any]) -> list[dict[str, str]]:
    """The summary's error, and those of its pull and push jobs."""
    parts = [summary, summary.get("pull"), *(summary.get("push") or {}).values()]
    return [part["error"] for part in parts if part and part.get("error")]


def _judge(code: int, summary: dict[str, Any]) -> None:
    """Raise the Airflow exception that fits the exit code; nothing for a success."""
    errors = _errors(summary)
    message = " ".join(error["message"] for error in errors) or "see the log above"
    if code == HELD:
        raise AirflowSkipException(message)
    if code == USAGE or any(error["type"] == "Unauthorized" for error in errors):
        raise AirflowFailException(message)
    if code not in (0, REJECTS):
        raise AirflowException(f"hiringcenter ended with exit code {code}: {message}")
    if code == REJECTS:
        log.warning(
            "Some rows were rejected or failed, or a list isn't proven complete; see the summary "
            "and the rejects file."
        )


@dag(
    schedule=SCHEDULE,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),  # noqa: UP017 - workers may be older
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "full": Param(False, type="boolean", description="scan each list completely"),
        "resources": Param(
            [],
            type="array",
            items={"type": "string", "enum": list(RESOURCES)},
            uniqueItems=True,
            examples=list(RESOURCES),
            description="only these lists; none: what the DAG does on its schedule",
        ),
    },
    tags=["hiringcenter"],
    doc_md=__doc__,
)
def hiringcenter_sync() -> None:
    """Pull, then every push job, for each account; accounts don't wait for one another."""

    @task
    def accounts() -> list[str]:
        return list(_variable("accounts", [NO_ACCOUNT], json_list=True)) or [NO_ACCOUNT]

    @task(
        map_index_template="{{ account or 'default' }}",
        outlets=[LISTS],
        pool=POOL,
        execution_timeout=EXECUTION_TIMEOUT,
    )
    def run(account: str) -> dict[str, Any]:
        context = get_current_context()
        context["account"] = account
        code, summary = _run(account, dict(context["params"]))
        result = {"exit_code": code, **summary}
        try:
            _judge(code, summary)
        except AirflowException:
            context["ti"].xcom_push("return_value", result)
            raise
        _tell_assets(context["outlet_events"], account, summary)
        return result

    run.expand(account=accounts())


hiringcenter_sync()
