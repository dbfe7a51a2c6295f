"""What waits at a model's doors, for those who only look: metrics and the console.

Owns nothing; a look changes nothing and costs the street nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from actors.channels import Door
from actors.messages import Submit
from actors.policy.queueing import Waiting


def with_doors(queued: dict[int, Waiting], doors: Iterable[Door[Submit]]) -> dict[int, Waiting]:
    """By level: what a policy has queued, and what its actor has not let in yet.

    Levels beyond the last door share it; what stands there counts for the level of the first.
    """
    for door in doors:
        first = door.head
        if first is not None:
            here = Waiting(len(door), first.submitted_at)
            queued[first.level] = here.and_also(queued.get(first.level))
    return queued
