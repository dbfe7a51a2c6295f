"""The registry of checks, and the assertions that they share.

A check is a function of one Flavour, registered under a group; a group can be skipped while a
server lacks the feature. A check fails by any exception.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from flavours import NAMES, Flavour
from tritonclient.utils import InferenceServerException

Run = Callable[[Flavour], None]


@dataclass(frozen=True)
class Check:
    """One thing a client expects of a server."""

    group: str
    name: str
    flavours: tuple[str, ...]
    run: Run


CHECKS: list[Check] = []


def check(group: str, flavours: tuple[str, ...] = NAMES) -> Callable[[Run], Run]:
    """Registers a function as a check of `group` for these flavours."""

    def register(run: Run) -> Run:
        CHECKS.append(Check(group, run.__name__, flavours, run))
        return run

    return register


def groups() -> list[str]:
    return sorted({each.group for each in CHECKS})


def run_checks(flavour: Flavour, chosen: Iterable[str]) -> tuple[int, list[str]]:
    """Runs all checks of the chosen groups; how many passed, and one text per failed one."""
    passed, failures = 0, []
    wanted = set(chosen)
    for each in CHECKS:
        if each.group not in wanted or flavour.name not in each.flavours:
            continue
        try:
            each.run(flavour)
        except Exception:  # noqa: BLE001  # a driver reports whatever goes wrong
            where = f"{flavour.name}: {each.group}: {each.name}"
            failures.append(f"{where}\n{traceback.format_exc(limit=-3)}")
        else:
            passed += 1
    return passed, failures


def expect(found: Any, right: Any, what: str) -> None:
    assert found == right, f"{what} is {found!r}, not {right!r}"


def refused(
    flavour: Flavour,
    *texts: str,
    http: int,
    grpc: str,
    call: Callable[[], Any],
    older: tuple[str, int, str] | None = None,
) -> None:
    """`call` must raise the client's own exception with one of `texts` and the right status.

    Several texts stand where a server may choose; a text must be the whole message. `older` is
    what Triton 2.51 says instead, with its two statuses: right only where `--older` says so.
    """
    try:
        result = call()
    except InferenceServerException as error:
        found = error.message(), str(error.status())
    else:
        raise AssertionError(f"{result!r} was answered instead of an error")
    right = [(text, http, grpc) for text in texts]
    if flavour.accept_older and older is not None:
        right.append(older)
    expected = [
        (text, str(status) if flavour.http else f"StatusCode.{code}")
        for text, status, code in right
    ]
    assert found in expected, f"the error is {found}, not {' or '.join(map(repr, expected))}"
