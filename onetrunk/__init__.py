"""Serve many image tasks from one frozen vision transformer."""
