"""The members of an ensemble, as the model index has them at this moment.

Owns the look-up, one per published index and not one per request. A request keeps what it was given
at its start: these versions stay in service until every ensemble request that holds them has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from actors.channels import Watch
from actors.lifecycle.model_index import ModelIndex, ServingVersion
from actors.policy.dataflow import Member
from actors.policy.dataflow_graph import Plan
from protocol.status import ServerError, unavailable
from repo.model_config import StepSettings

LATEST: Final = -1  # as configurations write it


@dataclass(frozen=True, slots=True, eq=False)
class Lineup:
    """Who plays each step; a ServerError stands where nobody can."""

    servings: Sequence[ServingVersion | ServerError]
    members: Sequence[Member]
    is_missing_some: bool


class Members:
    """Looks the members of one ensemble up.

    Its dataflow was made for members that are decoupled or not; one that has become otherwise is
    not taken, until the ensemble itself has been made anew, which is about to happen.
    """

    def __init__(self, steps: Sequence[StepSettings], index: Watch[ModelIndex]) -> None:
        self._steps = steps
        self._index = index
        self._seen: ModelIndex | None = None
        self._lineup = Lineup((), (), is_missing_some=True)
        self.decoupled = [
            not isinstance(one, ServerError) and one.decoupled for one in self._find_all()
        ]

    def now(self) -> Lineup:
        """The members of a request that starts now."""
        index = self._index.value
        if index is not self._seen:
            servings = [
                _as_before(one, decoupled)
                for one, decoupled in zip(self._find_all(), self.decoupled, strict=True)
            ]
            is_missing_some = any(isinstance(one, ServerError) for one in servings)
            self._lineup = Lineup(servings, [_member(one) for one in servings], is_missing_some)
            self._seen = index
        return self._lineup

    def _find_all(self) -> list[ServingVersion | ServerError]:
        return [_find(self._index.value, step) for step in self._steps]


def _as_before(
    serving: ServingVersion | ServerError, decoupled: bool
) -> ServingVersion | ServerError:
    if isinstance(serving, ServerError) or serving.decoupled == decoupled:
        return serving
    return unavailable(
        f"Request for unknown model: '{serving.name}' version {serving.version} is not at ready "
        "state"
    )


def _find(index: ModelIndex, step: StepSettings) -> ServingVersion | ServerError:
    version = "" if step.model_version == LATEST else str(step.model_version)
    try:
        return index.find(step.model_name, version)
    except ServerError as error:
        return error


def _member(serving: ServingVersion | ServerError) -> Member:
    if isinstance(serving, ServerError):
        return Member(batches=False, dims={})
    config = serving.config
    dims = {one.name: tuple(one.dims) for one in config.input}
    return Member(serving.has_batch_dimension, dims, len(config.output))


def staying(
    plan: Plan, step: int, servings: Sequence[ServingVersion | ServerError]
) -> frozenset[str]:
    """The outputs of a step that only members on devices take, and that so need not leave it."""

    def takes(consumer: int) -> bool:
        if consumer >= len(servings):
            return False  # the ensemble's own response
        serving = servings[consumer]
        return not isinstance(serving, ServerError) and serving.takes_device_tensors

    return frozenset(
        output
        for output, consumers in plan.produced[step]
        if all(takes(consumer) for consumer, _ in consumers)
    )
