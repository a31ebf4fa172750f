"""One pull: scans, chunks, what follows from them, and what people see of it."""
