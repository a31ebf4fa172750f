"""One push: where its rows come from, what it tells, and where its results land."""
