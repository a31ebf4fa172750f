"""When a request may go out: arithmetic alone, with no clock, no I/O and no SQL."""
