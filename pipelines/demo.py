"""`make sync`: with an API key, `hiringcenter sync`; without one, a pull from the embedded sandbox.

The sandbox has its own destination and state directory, so its rows never mix with real ones. A key
in the environment, in .env or in the configuration always wins.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from connector.errors import ConfigurationError
from pipelines.commands.invocation import Options, Result, run_command
from pipelines.commands.status_commands import SANDBOX_COPY

DUCKDB_PATH, STATE_DIR = SANDBOX_COPY, Path("data/.sandbox-state")
_SANDBOX_NOTICE = """\
No API key is configured: this is the embedded SANDBOX with made-up people, not HiringCenter.
Its rows go to {path}.
For your own data, put HIRINGCENTER_API_KEY=<your key> into .env.
"""
_QUERY = "SELECT current_stage, count(*) AS people FROM hiringcenter.prospects GROUP BY ALL"


def main(arguments: list[str] | None = None) -> None:
    """Never returns."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if (own := _own_options(arguments)) is not None:
        from pipelines.cli import main as command_line

        sys.argv = ["hiringcenter", "sync", *own, *arguments]
        command_line()
    options = Options(
        json="--json" in arguments, quiet="-q" in arguments, verbose=0, config=None, project=None,
        account=None, all_accounts=False,
    )  # fmt: skip
    run_command(options, _pull_from_sandbox)


def _own_options(arguments: list[str]) -> list[str] | None:
    """Options that `sync` needs besides `arguments`; None if no key is configured."""
    from connector.settings import load

    try:
        settings = load()
    except ConfigurationError:
        return []  # the command reports it
    if settings.accounts and settings.api_key is None and "--account" not in arguments:
        return ["--all-accounts"]
    return [] if settings.api_key or settings.accounts or "--config" in arguments else None


def _pull_from_sandbox(settings: Any, output: Any) -> Any:
    from pydantic import SecretStr

    from connector.sandbox import Sandbox, SandboxOptions
    from connector.settings import Settings
    from connector.source import RESOURCES
    from pipelines.commands.transfer_commands import run_pull
    from pipelines.pull.pull_run import Wanted

    sys.stderr.write(_SANDBOX_NOTICE.format(path=DUCKDB_PATH))
    with Sandbox(SandboxOptions(prospects=3000, notes=2000, tasks=1200, meetings=700)) as sandbox:
        own = Settings(
            api_key=SecretStr(sandbox.api_key),
            base_url=sandbox.url,
            duckdb_path=DUCKDB_PATH,
            state_dir=STATE_DIR,
            pull=settings.pull,
        )
        result = run_pull(own, Wanted(RESOURCES), output)
    if result.exit_code:
        return result
    return Result(result.summary, [*result.lines, *_tables()], result.exit_code, result.error)


def _tables() -> Iterator[str]:
    import duckdb

    with duckdb.connect(str(DUCKDB_PATH), read_only=True) as connection:
        names = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'hiringcenter' "
            "ORDER BY starts_with(table_name, '_hc'), table_name"
        ).fetchall()
        yield ""
        for (name,) in names:
            table = connection.table(f'hiringcenter."{name}"')
            ((rows,),) = table.count("*").fetchall()
            yield f"  hiringcenter.{name:<18} {rows:>6,} {'row' if rows == 1 else 'rows'}"
        marts = connection.execute(
            "SELECT count(*) FROM information_schema.tables "
            "WHERE table_schema = 'hiringcenter_marts'"
        ).fetchall()[0][0]
    if marts:
        yield f"  hiringcenter_marts: {marts} answers, such as hiringcenter_marts.time_in_stage;"
        yield "    `hiringcenter columns` describes them all"
    yield ""
    yield "Try a query (paste this):"
    yield f"  {_python()} -c \"import duckdb; print(duckdb.connect('{DUCKDB_PATH}', read_only=True)"
    yield f"    .sql('{_QUERY}'))\""


def _python() -> str:
    """The running interpreter, as short as a user would type it in this folder."""
    here, python = Path.cwd(), Path(sys.executable)
    return os.path.relpath(python, here) if python.is_relative_to(here) else str(python)


if __name__ == "__main__":
    main()
