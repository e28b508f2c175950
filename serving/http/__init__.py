"""The HTTP API; it knows nothing of Ray."""
