"""One pull: its scans, chunks, records and report."""
