"""Pushing: rows of a file or table, checked, planned in the outbox, sent, and accounted for."""
