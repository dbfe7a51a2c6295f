"""Why a request waited, told to a caller who asked: parameters of each of its responses.

`troupe_queue_wait_us` is the wait, `troupe_closed_by` what ended it (as `policy.actions.ClosedBy`
says; `cache` for a hit), `troupe_batch_size` how many elements were executed together. A response
of an ensemble adds the same of each member, `<name>.<model>`, and its wait is the sum of theirs.
Whoever does not ask pays for one look at the request's parameters.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Final

from protocol.inference import InferRequest, InferResponse, ParameterValue

# The request parameter with which a caller asks.
EXPLAIN: Final = "troupe_explain"
BATCH_SIZE: Final = "troupe_batch_size"
QUEUE_WAIT: Final = "troupe_queue_wait_us"
CLOSED_BY: Final = "troupe_closed_by"

_NAMES: Final = (BATCH_SIZE, QUEUE_WAIT, CLOSED_BY)


def wants_explanation(request: InferRequest) -> bool:
    """Whether the caller asked."""
    return request.parameters.get(EXPLAIN) is True


def explanation(
    batch_size: int, waited_seconds: float, closed_by: str
) -> dict[str, ParameterValue]:
    """What is said of one execution, or of one hit."""
    return {
        BATCH_SIZE: batch_size,
        QUEUE_WAIT: round(waited_seconds * 1e6),
        CLOSED_BY: closed_by,
    }


def add_member(
    total: MutableMapping[str, ParameterValue], model: str, response: InferResponse
) -> None:
    """Add to an ensemble's explanation what a member's response says of itself.

    Of several responses of one member the last one is told; each wait counts.
    """
    said = response.parameters
    for name in _NAMES:
        if name in said:
            total[f"{name}.{model}"] = said[name]
    total[QUEUE_WAIT] = _number(total.get(QUEUE_WAIT)) + _number(said.get(QUEUE_WAIT))


def _number(value: ParameterValue | None) -> int:
    return value if isinstance(value, int) else 0
