"""The credits that instances have given, and which of them is spent next.

Owns the choice between instances: the one with the most unused grants, that is the idlest, and
among equals the one that has waited longest. Never creates a grant.

An instance is idle when all the grants that it ever gave at once are unused; what else it grants is
for work to be done after what it has.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from actors.policy.lead import MOST

# What an instance may hold at the most (`lead.py`); more is a defect.
MAX_GRANTS_PER_INSTANCE: Final = MOST


class Grants:
    """Unused grants by instance."""

    __slots__ = ("_by_count", "_idle", "_most", "_room", "_unused", "total")

    def __init__(self) -> None:
        self.total = 0
        self._unused: dict[int, int] = {}  # every known instance
        # _by_count[n] holds the instances with n unused grants, longest waiting first.
        self._by_count: list[OrderedDict[int, None]] = [
            OrderedDict() for _ in range(MAX_GRANTS_PER_INSTANCE + 1)
        ]
        self._most = 0  # no instance has more than this many
        self._room: dict[int, int] = {}  # the most that an instance ever had
        self._idle: set[int] = set()  # those that have as many now; nobody asks for their order

    def __bool__(self) -> bool:
        return self.total > 0

    @property
    def has_idle(self) -> bool:
        """Whether an instance has nothing to do."""
        return bool(self._idle)

    @property
    def instance_count(self) -> int:
        """How many instances are known."""
        return len(self._unused)

    def add(self, instance: int) -> None:
        count = self._unused.get(instance, 0)
        assert count < MAX_GRANTS_PER_INSTANCE, "an instance grants what it can take"
        if count:
            del self._by_count[count][instance]
        count += 1
        self._unused[instance] = count
        self._by_count[count][instance] = None
        self.total += 1
        self._most = max(self._most, count)
        if count >= self._room.get(instance, 0):
            self._room[instance] = count
            self._idle.add(instance)

    def take(self) -> int:
        """Spend one grant and name its instance."""
        assert self.total, "a batch leaves only against a grant"
        self.total -= 1
        count = self._most
        while not self._by_count[count]:
            count -= 1
        self._most = count
        instance, _ = self._by_count[count].popitem(last=False)
        self._unused[instance] = count - 1
        self._idle.discard(instance)
        if count > 1:
            self._by_count[count - 1][instance] = None
        return instance

    def take_all(self) -> list[int]:
        """Spend every grant; an instance appears once per grant it gave."""
        return [self.take() for _ in range(self.total)]

    def forget(self, instance: int) -> None:
        """Drop an instance and its grants; harmless when it is not known."""
        count = self._unused.pop(instance, 0)
        self._room.pop(instance, None)
        self._idle.discard(instance)
        if count:
            del self._by_count[count][instance]
            self.total -= count
