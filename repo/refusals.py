"""Why a model configuration is refused, and where it says what it must not.

Owns the form of a refusal that knows its place. A rule yields its refusals one by one: the server
stops at the first (`raise_first`), a reader who wants to hear all of them goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from protocol.status import ServerError, StatusCode


@dataclass(frozen=True, slots=True)
class DrawnShape:
    """A shape for people: `[ batch | 3, 224 ]`. `sizes` are without the batch dimension."""

    sizes: tuple[int, ...]
    batched: bool = False

    def __str__(self) -> str:
        sizes = ", ".join(map(str, self.sizes))
        return f"[ {'batch | ' * self.batched}{sizes} ]" if sizes or self.batched else "[ ]"


class ConfigRefusal(ServerError):
    """One thing that is wrong with a configuration.

    `field` is the path of what is wrong, such as `input[1].dims[0]`; a field that is absent has
    the path that it would have. `expected` and `found` are the shapes that do not agree, if any.
    """

    __slots__ = ("expected", "field", "found")

    def __init__(
        self,
        message: str,
        field: str,
        *,
        expected: DrawnShape | None = None,
        found: DrawnShape | None = None,
        status: StatusCode = StatusCode.INVALID_ARG,
    ) -> None:
        super().__init__(status, message)
        self.field = field
        self.expected = expected
        self.found = found


def raise_first(refusals: Iterable[ServerError]) -> None:
    """Raise the first one, if there is any; what would follow is not even looked for."""
    for refusal in refusals:
        raise refusal
