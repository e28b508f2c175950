"""The adapters that can be tuned, and the folders that they are kept in."""
