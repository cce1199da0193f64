"""A policy behind a network socket: serving it, and the client that checks a server."""
