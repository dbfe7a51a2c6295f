"""The kinds of random worlds: of crowds, of sequences, and of ensembles.

One generator draws which kind a world is and everything in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random  # noqa: TID251  # a plan is drawn before its world exists
from typing import Final, Literal

from simulation.drawing import FaultPlan, draw_plan
from simulation.ensemble_drawing import draw_ensembles
from simulation.ensemble_scenarios import EnsemblePlay, ensemble_world
from simulation.scenarios import CrowdPlay, world_of
from simulation.sequence_drawing import draw_sequences
from simulation.sequence_scenarios import SequencePlay, sequence_world
from simulation.world import Scenario, World

Kind = Literal["crowd", "sequences", "ensembles"]

SEQUENCES: Final = 0.2
ENSEMBLES: Final = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class RandomWorld:
    """A world that was drawn, ready to run."""

    kind: Kind
    world: World
    scenario: Scenario
    configs: dict[str, str]  # by model
    faults: Sequence[FaultPlan]

    def story(self) -> Iterator[str]:
        """What a reader has to know before anything happens."""
        for model, config in self.configs.items():
            yield f"--- {model}"
            yield config
        for fault in self.faults:
            yield f"--- {fault.name} strikes {fault.victim} at {fault.at} for {fault.ticks}"


def draw_world(seed: int) -> RandomWorld:
    """The world of a seed."""
    random = Random(seed)  # noqa: S311  # reproducible on purpose
    kind = _draw_kind(random)
    if kind == "sequences":
        one = draw_sequences(random)
        return RandomWorld(
            kind, sequence_world(one), SequencePlay(one), {"q": one.model.config}, one.faults
        )
    if kind == "ensembles":
        two = draw_ensembles(random)
        return RandomWorld(
            kind, ensemble_world(two), EnsemblePlay(two), two.ensemble.configs, two.faults
        )
    plan = draw_plan(random)
    configs = {model.name: model.config for model in plan.models}
    return RandomWorld(kind, world_of(plan), CrowdPlay(plan), configs, plan.faults)


def kind_of(seed: int) -> Kind:
    """What kind of world a seed draws."""
    return _draw_kind(Random(seed))  # noqa: S311  # as above


def _draw_kind(random: Random) -> Kind:
    draw = random.random()
    if draw < SEQUENCES:
        return "sequences"
    return "ensembles" if draw < SEQUENCES + ENSEMBLES else "crowd"
