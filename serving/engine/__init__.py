"""One backbone, many tasks in one batch: no I/O, no HTTP, no store."""
