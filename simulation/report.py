"""What a reader needs of one run: its verdict, how to see it again, and what happened in it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from simulation.kinds import RandomWorld, draw_world
from simulation.traces import Trace
from simulation.world import Violation

_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """How the world of one seed turned out; `problem` is empty if every promise was kept."""

    seed: int
    drawn: RandomWorld
    trace: Trace
    requests: int
    problem: str

    @property
    def digest(self) -> str:
        """Names the trace: equal digests, equal runs."""
        text = "\n".join(map(str, self.trace.events)).encode()
        return hashlib.blake2b(text, digest_size=_DIGEST_BYTES).hexdigest()


def judge(seed: int) -> Verdict:
    """Run the world of a seed."""
    drawn = draw_world(seed)
    world = drawn.world
    problem = ""
    try:
        world.run(drawn.scenario, seed=seed)
    except Violation as violation:
        problem = str(violation)
    except Exception as error:  # noqa: BLE001  # any end but a good one is the verdict
        problem = "".join(traceback.format_exception(error))
    return Verdict(seed, drawn, world.trace, len(world.ledger.asked), problem)


def summary(verdict: Verdict) -> str:
    """The verdict in short, with the command that replays it."""
    if not verdict.problem:
        return f"seed {verdict.seed}: {verdict.requests} requests, every promise kept"
    return (
        f"seed {verdict.seed} broke a promise at commit {_commit()}:\n{verdict.problem}\n"
        f"see it again: python -m simulation --seed {verdict.seed}"
    )


def story(verdict: Verdict) -> Iterator[str]:
    """Everything about a run: models, faults, and what happened, in ticks of the plan."""
    yield from verdict.drawn.story()
    yield "--- what happened"
    for event in verdict.trace.events:
        at = f"{event.at_us / 1e6:12.6f}"
        yield f"{at}  {event.what:<12} {event.who:<8} {event.size:>3}  {event.detail}"


def _commit() -> str:
    """The commit of this source tree, as far as git knows one."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    here = Path(__file__).parent
    asked = subprocess.run(  # noqa: S603  # a fixed command
        [git, "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "unknown"
