"""What a kill leaves of dlt's local state."""

from __future__ import annotations

from pipelines.destination.destination import Destination
from pipelines.places import places
from tests.sync.pull.conftest import Puller


def test_marks_of_an_abort_that_was_cut_short_are_not_believed(puller: Puller):
    """Rows that they speak of may never have been loaded: the destination knows better."""
    puller.pull_ok()
    folder = places(puller.settings).pipelines_dir
    with Destination(puller.settings) as destination:
        loaded = destination.loader.mark("prospects")
        destination.loader.set_marks({"prospects": {"of": "rows that never arrived"}})
    begun = folder.with_name(f"{folder.name}.aborting")
    begun.touch()
    with Destination(puller.settings) as destination:
        assert destination.loader.mark("prospects") == loaded
    assert not begun.exists()
    puller.pull_ok()
    puller.assert_true()
