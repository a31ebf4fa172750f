"""Planned writes to the API: concurrency, order within a person, answers to outcomes."""
