"""One file for each group of commands; each owns one `app`."""
