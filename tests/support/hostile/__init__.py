"""Requests of an attacker to the HTTP server, as tables; what sends them, and what watches meanwhile."""
