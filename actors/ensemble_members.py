"""The members of an ensemble, as the model index has them at this moment.

Owns the look-up, one per published index and not one per request. A request keeps what it was given
at its start: these versions stay in service until every ensemble request that holds them has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.channels import Watch
from actors.model_index import ModelIndex, ServingVersion
from actors.policy.dataflow import Member
from protocol.status import ServerError
from repo.model_config import ModelConfig, StepSettings

LATEST = -1


@dataclass(frozen=True, slots=True, eq=False)
class Lineup:
    """Who plays each step; a ServerError stands where nobody can."""

    servings: Sequence[ServingVersion | ServerError]
    members: Sequence[Member]


class Members:
    """Looks the members of one ensemble up."""

    def __init__(self, steps: Sequence[StepSettings], index: Watch[ModelIndex]) -> None:
        self._steps = steps
        self._index = index
        self._seen: ModelIndex | None = None
        self._lineup = Lineup((), ())

    def now(self) -> Lineup:
        """The members of a request that starts now."""
        index = self._index.value
        if index is not self._seen:
            servings = [_find(index, step) for step in self._steps]
            self._lineup = Lineup(servings, [_member(one) for one in servings])
            self._seen = index
        return self._lineup


def _find(index: ModelIndex, step: StepSettings) -> ServingVersion | ServerError:
    version = "" if step.model_version == LATEST else str(step.model_version)
    try:
        return index.find(step.model_name, version)
    except ServerError as error:
        return error


def _member(serving: ServingVersion | ServerError) -> Member:
    if isinstance(serving, ServerError):
        return Member(batches=False, dims={})
    return Member(serving.has_batch_dimension, input_dims(serving.config))


def input_dims(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The configured dims by input name, without the batch dimension."""
    return {one.name: tuple(one.dims) for one in config.input}
