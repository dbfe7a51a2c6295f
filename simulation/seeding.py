"""Makes the order of tasks and turns a function of a seed, by way of trio's private names, which
nobody else touches but `actors/loop_view.py`.

trio shuffles runnable tasks with a private random generator. Seeding that generator and switching
on its deterministic mode makes a run repeatable; both are put back afterwards. The names are
private, which is why trio's minor version is pinned and `tests/simulation/test_seeding.py` checks
that the same seed still gives the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random  # noqa: TID251  # the world's one generator is made here
from typing import Final

import trio._core._run as trio_run

_SWITCH: Final = "_ALLOW_DETERMINISTIC_SCHEDULING"  # declared Final by trio: set it by name


@contextmanager
def seeded_scheduler(seed: int) -> Iterator[Random]:
    """Within this block `trio.run` interleaves tasks as `seed` says; yields the world's Random.

    Not re-entrant, and not for use while another `trio.run` is active in the process.
    """
    deterministic = getattr(trio_run, _SWITCH)
    state = trio_run._r.getstate()  # noqa: SLF001  # see above
    setattr(trio_run, _SWITCH, True)
    trio_run._r.seed(seed)  # noqa: SLF001  # see above
    try:
        yield Random(seed)  # noqa: S311  # reproducible on purpose
    finally:
        setattr(trio_run, _SWITCH, deterministic)
        trio_run._r.setstate(state)  # noqa: SLF001  # see above


def seeded_turns(seed: int) -> Callable[[int], int]:
    """Which of so many actors that were rung has its turn next (`actors/turns.py`).

    A generator of its own, so that what a scenario draws does not depend on the turns taken.
    """
    return Random(f"turns {seed}").randrange  # noqa: S311  # reproducible on purpose
