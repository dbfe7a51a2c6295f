"""The rate limiter against a plain model of its rules, under any sequence of events."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.policy.limiting import (
    CATCH_UP_EXECUTIONS,
    DeclaredResource,
    RateLimiter,
    Resource,
)
from protocol.status import ServerError

NAMES = ("a", "b")
GLOBAL = "g"
INSTANCES = 6
DEVICES = 2

needs_of_one = st.lists(
    st.one_of(
        st.builds(Resource, st.sampled_from(NAMES), st.integers(1, 3)),
        st.builds(Resource, st.just(GLOBAL), st.integers(1, 3), st.just(value=True)),
    ),
    max_size=3,
    unique_by=lambda resource: resource.name,
)
declarations = st.lists(
    st.builds(
        DeclaredResource,
        st.sampled_from((*NAMES, GLOBAL)),
        st.integers(2, 5),
        st.sampled_from((None, 0)),
    ),
    max_size=3,
)


@dataclass
class Known:
    """One instance as the model sees it; `staged` orders those that wait."""

    needs: dict[str, int]
    priority: int
    group: str
    executions: int = 1
    wanted: int = 0
    staged: tuple[int, int] | None = None
    for_group: bool = False
    runs: bool = False


def key(resource: Resource, device: int) -> str:
    return resource.name if resource.is_global else f"{resource.name}@{device}"


class LimiterMachine(RuleBasedStateMachine):
    @initialize(declared=declarations)
    def begin(self, declared: list[DeclaredResource]) -> None:
        self.declared = declared
        self.limiter = RateLimiter(declared)
        self.known: dict[int, Known] = {}
        self.group_wanted: Counter[str] = Counter()
        self.stagings = 0
        self.least_active = 0

    def capacity(self, place: str) -> int:
        """By the documented rule, from what is registered now."""
        if not self.declared:
            return max((known.needs.get(place, 0) for known in self.known.values()), default=0)
        name, _, device = place.partition("@")
        smallest: dict[tuple[str, int | None], int] = {}
        for one in self.declared:
            spot = (one.name, one.device)
            smallest[spot] = min(smallest.get(spot, one.count), one.count)
        fitting = [
            count
            for (other, on), count in smallest.items()
            if other == name and (not device or on is None or str(on) == device)
        ]
        return max(fitting, default=0)

    @rule(
        instance=st.integers(0, INSTANCES - 1),
        needs=needs_of_one,
        priority=st.integers(0, 3),
        device=st.integers(0, DEVICES - 1),
        group=st.sampled_from(("m", "n")),
    )
    def register(
        self, instance: int, needs: list[Resource], priority: int, device: int, group: str
    ) -> None:
        if instance in self.known:
            return
        added = Known({key(one, device): one.count for one in needs}, max(priority, 1), group)
        is_possible = not self.declared or all(
            self.capacity(place) >= count for place, count in added.needs.items()
        )
        try:
            self.limiter.register(instance, needs, priority, device, group=group)
        except ServerError:
            assert not is_possible
        else:
            assert is_possible
            self.known[instance] = added
            self.step()

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def unregister(self, data: st.DataObject) -> None:
        instance = data.draw(st.sampled_from(sorted(self.known)))
        self.limiter.unregister(instance)
        gone = self.known.pop(instance)
        if gone.staged and gone.for_group:
            self.group_wanted[gone.group] += 1
        if all(known.group != gone.group for known in self.known.values()):
            self.group_wanted[gone.group] = 0
        self.step()

    @precondition(lambda self: self.known)
    @rule(data=st.data(), times=st.integers(1, 3))
    def request(self, data: st.DataObject, times: int) -> None:
        instance = data.draw(st.sampled_from(sorted(self.known)))
        for _ in range(times):
            if data.draw(st.booleans()):
                self.limiter.request(instance)
                self.known[instance].wanted += 1
            else:
                group = self.known[instance].group
                self.limiter.request_any(group)
                self.group_wanted[group] += 1
        self.step()

    @precondition(lambda self: any(known.runs for known in self.known.values()))
    @rule(data=st.data(), executed=st.booleans())
    def release(self, data: st.DataObject, executed: bool) -> None:
        running = sorted(number for number, known in self.known.items() if known.runs)
        instance = data.draw(st.sampled_from(running))
        self.limiter.release(instance, executed=executed)
        self.known[instance].runs = False
        self.known[instance].executions += executed
        self.step()

    @rule()
    def step(self) -> None:
        granted = [grant.instance for grant in self.limiter.step()]
        self.stage_like(granted)
        expected = self.allocate()
        assert granted == expected
        active = [
            known.staged[0] if known.staged else known.executions * known.priority
            for known in self.known.values()
            if known.staged or known.runs
        ]
        self.least_active = max(self.least_active, min(active, default=0))
        assert self.limiter.step() == []

    def stage_like(self, granted: list[int]) -> None:
        """Stage by rank within each group; between groups the order only breaks ties."""
        fresh: list[tuple[int, int]] = []
        for group in ("m", "n"):
            idle = [
                number
                for number, known in self.known.items()
                if known.group == group and not known.staged and not known.runs
            ]
            weights = {
                number: self.known[number].executions * self.known[number].priority
                for number in idle
            }
            for number in sorted(idle, key=weights.__getitem__):
                known = self.known[number]
                if known.wanted:
                    known.wanted -= 1
                    known.for_group = False
                elif self.group_wanted[group]:
                    self.group_wanted[group] -= 1
                    known.for_group = True
                else:
                    continue
                known.executions = max(
                    known.executions, self.least_active // known.priority - CATCH_UP_EXECUTIONS
                )
                fresh.append((known.executions * known.priority, number))
        # Only one group changes between two steps, so its own order is the order of staging.
        for weight, number in fresh:
            self.stagings += 1
            self.known[number].staged = (weight, self.stagings)
        assert {number for number in granted if not self.known[number].staged} == set()

    def allocate(self) -> list[int]:
        """In rank order: whoever fits beside what runs and all that those before still need."""
        taken: Counter[str] = Counter()
        for known in self.known.values():
            if known.runs:
                taken.update(known.needs)
        expected = []
        waiting = [number for number, known in self.known.items() if known.staged]
        for number in sorted(waiting, key=lambda number: self.known[number].staged or (0, 0)):
            known = self.known[number]
            if all(taken[place] + n <= self.capacity(place) for place, n in known.needs.items()):
                known.staged = None
                known.runs = True
                expected.append(number)
            taken.update(known.needs)
        return expected

    @invariant()
    def nothing_is_allocated_beyond_capacity(self) -> None:
        if not hasattr(self, "limiter"):
            return
        in_use: Counter[str] = Counter()
        for known in self.known.values():
            if known.runs:
                in_use.update(known.needs)
        for name in NAMES:
            for device in range(DEVICES):
                assert self.limiter.in_use(name, device) == in_use[f"{name}@{device}"]
                assert self.limiter.capacity(name, device) == (
                    self.capacity(f"{name}@{device}")
                    if any(f"{name}@{device}" in known.needs for known in self.known.values())
                    else 0
                )
        assert self.limiter.in_use(GLOBAL, None) == in_use[GLOBAL]

    def teardown(self) -> None:
        """Everybody who waits gets a turn if only those who run come to an end."""
        if not hasattr(self, "limiter"):
            return
        wanted = self.group_wanted.total() + sum(
            known.wanted + bool(known.staged) + known.runs for known in self.known.values()
        )
        for _ in range(wanted + 1):
            self.step()
            for number, known in self.known.items():
                if known.runs:
                    self.limiter.release(number)
                    known.runs = False
                    known.executions += 1
                    self.step()
                    break
        assert not any(known.staged or known.wanted for known in self.known.values())
        assert self.group_wanted.total() == 0


LimiterMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, report_multiple_bugs=False
)
TestLimiter = LimiterMachine.TestCase
