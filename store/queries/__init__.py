"""The read side of the catalogue, over the standard library's sqlite3 or any `select`."""
