"""What a nursery's exception group comes down to, and what a failed load is told."""

from __future__ import annotations

import logging

from protocol.status import ServerError, internal

log = logging.getLogger(__name__)


def root_cause(error: BaseException) -> BaseException:
    """The first exception inside nested groups: what went wrong before everything was cancelled.

    Where several tasks failed at once, the others are lost here; whoever logs should log the group.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def load_failure(model: str, error: Exception) -> ServerError:
    """What a load failed with, as its answer; whatever nobody foresaw also goes into the log."""
    cause = root_cause(error)
    if isinstance(cause, ServerError):
        return cause
    log.error("loading model '%s' failed by a defect", model, exc_info=error)
    return internal(f"loading failed with {type(cause).__name__}: {cause}")
