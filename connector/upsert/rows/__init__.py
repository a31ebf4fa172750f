"""Input rows to payloads: columns mapped, cells read, rows checked, rejects written."""
