"""Traces of requests: who is traced, the stamps on the way, the files or collector at the end."""
