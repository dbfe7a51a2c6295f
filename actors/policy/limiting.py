"""The rate limiter: which instance may execute next, given the resources that executions need.

Owns the capacity of every resource, what of it is in use, and the order among instances. An
instance is available, staged (a request waits for it to get its resources) or allocated (it
executes). Resources are counted names that mean nothing else; one that is not global exists once
per device.

Staged instances are ranked by scaled priority, `executions * priority`, lowest first, so that an
instance of priority 2 executes half as often as one of priority 1 while both are wanted. All
resources of an instance are allocated at once or none. When the first in rank does not fit, those
behind it may go first as far as they leave it everything it waits for that is free now: a blocked
instance reserves its whole need, in rank order. So nobody idles for want of another's resource,
and nobody can be starved by smaller ones that slip past.

An instance that was idle, or is new, starts close to the least served of the active ones: what it
did not ask for in the past gives it no claim, and it cannot shut the others out until it has caught
up.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from protocol.status import internal, invalid_arg

_FORMAT: Final = (
    "--rate-limit-resource option format is '<resource_name>:<count>:<device>' or "
    "'<resource_name>:<count>'. Got "
)
_NOT_REGISTERED: Final = "Requested model is not yet registered with rate limiter"


@dataclass(frozen=True, slots=True)
class Resource:
    """What one execution of an instance needs; not global means on the instance's own device."""

    name: str
    count: int
    is_global: bool = False


@dataclass(frozen=True, slots=True)
class DeclaredResource:
    """A capacity given on the command line; `device` None means every device."""

    name: str
    count: int
    device: int | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """`instance` may execute once; its resources are allocated until it is released."""

    instance: int


def declared_resource(argument: str) -> DeclaredResource:
    """Read a `--rate-limit-resource` argument, `NAME:COUNT[:DEVICE]`; names become lower-case.

    Raises ValueError with the text for the operator.
    """
    name, *numbers = argument.lower().split(":")
    if not name or not 1 <= len(numbers) <= 2 or not all(map(_is_number, numbers)):
        raise ValueError(_FORMAT + argument)
    device = int(numbers[1]) if len(numbers) == 2 else None
    return DeclaredResource(name, int(numbers[0]), device)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


# How many executions an instance may be behind the least served active one when it is staged. The
# short gaps between two requests of a busy instance must not cost it its share.
CATCH_UP_EXECUTIONS: Final = 16

_Place = tuple[str, int | None]
"""A resource's name and device; the device of a global resource is None."""


@dataclass(slots=True, eq=False)
class _Instance:
    instance: int
    group: Hashable
    priority: int
    needs: Mapping[_Place, int]
    executions: int = 1
    wanted: int = 0  # requests for this very instance that are not staged yet
    is_staged: bool = False
    lends: bool = False  # it executes, and others may use its resources meanwhile
    serves_group: bool = False  # staged for a request that any member could serve

    @property
    def weight(self) -> int:
        return self.executions * self.priority


@dataclass(slots=True, eq=False)
class _Group:
    """The instances of one model, and the requests that any of them may serve."""

    members: list[_Instance] = field(default_factory=list)
    wanted: int = 0


class RateLimiter:
    """All models' instances; instance numbers are unique among them.

    `enabled` False is `--rate-limit off`: resources and priorities are ignored, and every request
    for an instance that is not executing is granted in the next step.
    """

    def __init__(self, declared: Iterable[DeclaredResource] = (), *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._declared: dict[_Place, int] = {}
        for resource in declared:
            place = (resource.name, resource.device)
            known = self._declared.get(place, resource.count)
            self._declared[place] = min(known, resource.count)
        self._instances: dict[int, _Instance] = {}
        self._groups: dict[Hashable, _Group] = {}
        self._capacity: dict[_Place, int] = {}
        self._used: Counter[_Place] = Counter()
        self._staged: list[tuple[int, int, int]] = []  # weight, order of staging, instance
        self._allocated: dict[int, _Instance] = {}
        self._serial = 0
        self._least_active = 0  # the lowest weight that executed or waited in the last step
        self._dirty: dict[Hashable, None] = {}  # groups in which something may be staged

    def register(
        self,
        instance: int,
        resources: Sequence[Resource] = (),
        priority: int = 0,
        device: int = 0,
        *,
        group: Hashable = None,
    ) -> None:
        """Add an instance; priority 0 means 1. `group` is its model, for `request_any`.

        Loading counts as its first execution. Raises ServerError INVALID_ARG, and adds nothing,
        when its resources can never be allocated.
        """
        assert instance not in self._instances, "an instance is registered once"
        if not self._enabled:
            resources, priority = (), 0
        needs: Counter[_Place] = Counter()
        for resource in resources:
            place = (resource.name, None if resource.is_global else device)
            needs[place] = max(needs[place], resource.count)
        added = _Instance(instance, group, max(priority, 1), dict(needs))
        self._capacity = self._compute_capacity([*self._instances.values(), added])
        self._instances[instance] = added
        self._groups.setdefault(group, _Group()).members.append(added)
        self._dirty[group] = None

    def unregister(self, instance: int) -> None:
        """Remove an instance with the requests for it, and free what is allocated to it.

        What its group wants is left to the other members; it is gone with the last of them.
        """
        gone = self._instances.pop(instance)
        if gone.is_staged:
            self._staged = [entry for entry in self._staged if entry[2] != instance]
        if self._allocated.pop(instance, None) is not None:
            self._free(gone)
        group = self._groups[gone.group]
        group.members.remove(gone)
        if gone.is_staged and gone.serves_group:
            group.wanted += 1
        self._dirty[gone.group] = None
        if not group.members:
            del self._groups[gone.group]
            del self._dirty[gone.group]
        self._capacity = self._compute_capacity(self._instances.values())

    def request(self, instance: int) -> None:
        """One execution is wanted on this very instance. ServerError INTERNAL if unknown."""
        wanted = self._instances.get(instance)
        if wanted is None:
            raise internal(_NOT_REGISTERED)
        wanted.wanted += 1
        self._dirty[wanted.group] = None

    def request_any(self, group: Hashable) -> None:
        """One execution is wanted on any instance of the group. ServerError INTERNAL if unknown."""
        wanted = self._groups.get(group)
        if wanted is None:
            raise internal(_NOT_REGISTERED)
        wanted.wanted += 1
        self._dirty[group] = None

    def release(self, instance: int, *, executed: bool = True) -> None:
        """The granted execution is over, or, without `executed`, was not needed after all."""
        done = self._allocated.pop(instance)
        done.executions += executed
        self._free(done)
        self._dirty[done.group] = None

    def lend(self, instance: int) -> None:
        """An executing instance waits for another model: meanwhile others use its resources.

        Without this, a model that calls another one which needs what the caller holds would wait
        for itself. Harmless when the instance is not executing, or lends already.
        """
        lender = self._allocated.get(instance)
        if lender is not None and not lender.lends:
            self._used.subtract(lender.needs)
            lender.lends = True

    def take_back(self, instance: int) -> None:
        """The wait is over: the instance goes on at once, even where that is more than there is.

        Until as much has been released again, nothing else that needs the resource is granted.
        """
        lender = self._allocated.get(instance)
        if lender is not None and lender.lends:
            self._used.update(lender.needs)
            lender.lends = False

    def is_allocated(self, instance: int) -> bool:
        """Whether the instance has been granted an execution that it has not released."""
        return instance in self._allocated

    def knows(self, group: Hashable) -> bool:
        """Whether the group has any instance."""
        return group in self._groups

    def _free(self, done: _Instance) -> None:
        if not done.lends:
            self._used.subtract(done.needs)
        done.lends = False

    def step(self) -> list[Grant]:
        """Stage what is wanted and grant whatever fits, in rank order."""
        self._stage()
        grants: list[Grant] = []
        reserved: Counter[_Place] = Counter()
        waiting: list[tuple[int, int, int]] = []
        for entry in self._staged:
            staged = self._instances[entry[2]]
            if self._fits(staged, reserved):
                staged.is_staged = False
                self._allocated[staged.instance] = staged
                self._used.update(staged.needs)
                grants.append(Grant(staged.instance))
            else:
                reserved.update(staged.needs)
                waiting.append(entry)
        self._staged = waiting
        active = [one.weight for one in self._allocated.values()]
        if waiting:
            active.append(waiting[0][0])
        self._least_active = max(self._least_active, min(active, default=0))
        return grants

    def capacity(self, name: str, device: int | None) -> int:
        """How much there is of a resource; `device` None asks for a global one."""
        return self._capacity.get((name, device), 0)

    def in_use(self, name: str, device: int | None) -> int:
        """How much of a resource is allocated."""
        return self._used[name, device]

    def _stage(self) -> None:
        """Match requests with available instances: specific requests first, lowest rank first."""
        for name in self._dirty:
            group = self._groups[name]
            for one in sorted(group.members, key=lambda member: member.weight):
                if one.is_staged or one.instance in self._allocated:
                    continue
                if one.wanted:
                    one.wanted -= 1
                    one.serves_group = False
                elif group.wanted:
                    group.wanted -= 1
                    one.serves_group = True
                else:
                    continue
                floor = self._least_active // one.priority - CATCH_UP_EXECUTIONS
                one.executions = max(one.executions, floor)
                one.is_staged = True
                self._serial += 1
                insort(self._staged, (one.weight, self._serial, one.instance))
        self._dirty.clear()

    def _fits(self, staged: _Instance, reserved: Mapping[_Place, int]) -> bool:
        return all(
            self._used[place] + reserved.get(place, 0) + count <= self._capacity[place]
            for place, count in staged.needs.items()
        )

    def _compute_capacity(self, instances: Iterable[_Instance]) -> dict[_Place, int]:
        """What there is of everything that these instances need. Raises ServerError."""
        needed: dict[_Place, int] = {}
        for known in instances:
            for place, count in known.needs.items():
                needed[place] = max(needed.get(place, 0), count)
        for name, device in needed:
            if device is not None and (name, None) in needed:
                raise invalid_arg(
                    f'Resource "{name}" is present as both global and device-specific resource in '
                    "the model configuration."
                )
        if not self._declared:
            return dict(needed)
        capacity = {place: self._declared_count(*place) for place in needed}
        for place, count in needed.items():
            if capacity[place] < count:
                raise invalid_arg(
                    f'Resource count for "{place[0]}" is limited to {capacity[place]} which will '
                    "prevent scheduling of one or more model instances, the minimum required "
                    f"count is {count}"
                )
        return capacity

    def _declared_count(self, name: str, device: int | None) -> int:
        """The largest value declared for the place; a global resource ignores devices."""
        return max(
            (
                count
                for (known, on_device), count in self._declared.items()
                if known == name and (device is None or on_device in {None, device})
            ),
            default=0,
        )
