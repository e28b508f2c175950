"""The console: pages for people, over the same store, keys and errors as the HTTP API."""
