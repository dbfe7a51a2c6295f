"""The Python backend: a worker process per model instance, running unmodified Triton `model.py`.

This package holds everything that runs INSIDE the worker, and the message format that both sides
share. The server's side of the conversation is `actors/processes/executor.py`.

The worker may run under another interpreter (3.9 or later) and in another environment, so the
modules here import nothing but the standard library, numpy and each other, by relative imports:
the worker knows this directory as the package `troupe_worker`, not by its place in Troupe.
"""
