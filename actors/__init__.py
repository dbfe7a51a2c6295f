"""Concurrency: the actors, their messages and their wiring. Start at `wiring.py`."""
