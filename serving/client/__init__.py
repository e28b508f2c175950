"""Clients of the HTTP API; they need neither torch nor Ray."""

from serving.client.answers import ImageAnswer
from serving.client.asynchronous import AsyncClient
from serving.client.blocking import Client

__all__ = ["AsyncClient", "Client", "ImageAnswer"]
