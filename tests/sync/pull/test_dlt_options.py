"""What was set for other dlt pipelines changes nothing of ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs import PluggableRunContext

from tests.dlt_options import harmful_environment
from tests.sync.pull.conftest import Puller


def test_pulls_are_right_with_every_option_of_dlt_set(
    any_puller: Puller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """In the environment and in a `.dlt/config.toml`: the same rows, also after changes, in the
    configured dataset."""
    any_puller.lists = ("prospects", "notes")
    sections: list[tuple[str, ...]] = [
        (), ("load",), ("normalize",), ("extract",), ("schema",), ("data_writer",), ("runtime",),
        ("normalize", "data_writer"), ("sources", "hiringcenter"), ("pipelines", "hiringcenter"),
        ("destination", any_puller.settings.destination),
        ("destination", any_puller.settings.destination, "credentials"),
    ]  # fmt: skip
    (tmp_path / ".dlt").mkdir()
    file = tmp_path / ".dlt" / "config.toml"
    file.write_text("dev_mode = true\ndata_writer.file_max_items = 1")
    context = Container()[PluggableRunContext]
    context.reload_providers()
    harmful_environment(monkeypatch, sections)
    try:
        any_puller.pull_ok()
        any_puller.assert_true()
        any_puller.sandbox.store.create("prospects", {"firstName": "New", "lastName": "Person"})
        any_puller.pull_ok()
        any_puller.assert_true()
        assert any_puller.counts("rows_written")["prospects"] == 1
    finally:
        file.unlink()
        monkeypatch.undo()
        context.reload_providers()
