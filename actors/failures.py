"""What a nursery's exception group comes down to."""

from __future__ import annotations


def root_cause(error: BaseException) -> BaseException:
    """The first exception inside nested groups: what went wrong before everything was cancelled.

    Where several tasks failed at once, the others are lost here; whoever logs should log the group.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
