"""Answers requests: one engine, every task."""
