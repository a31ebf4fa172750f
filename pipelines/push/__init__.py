"""One push: where its rows come from, what it reports, and where its results land."""
