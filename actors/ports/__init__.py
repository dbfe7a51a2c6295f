"""Listening ports, sockets, TLS and keys: the edge of the server, whatever is spoken there."""
