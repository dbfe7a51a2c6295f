"""Host policies: which processor cores an instance runs on, as `--host-policy` says.

    --host-policy=<policy>,cpu-cores=<a>-<b>[,<c>-<d>]     these cores
    --host-policy=<policy>,numa-node=<n>                   the cores of a NUMA node

A model names a policy in its instance group; without one an instance follows `cpu`, `gpu_<id>` or
`model`. Owns the parsing and the look-up; binding threads and processes is the executors' work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_RANGE: Final = re.compile(r"(\d+)-(\d+)")
_NODES: Final = Path("/sys/devices/system/node")
# More cores than any machine has; a range is expanded, so it needs a bound.
MAX_CORE: Final = 65_535


class HostPolicies:
    """Every policy by name. `cores_of` an unknown one is empty: no binding."""

    def __init__(self, arguments: Iterable[str] = (), *, nodes: Path = _NODES) -> None:
        """Raises ValueError with the text for the operator."""
        self._cores: dict[str, frozenset[int]] = {}
        for argument in arguments:
            name, comma, setting = argument.partition(",")
            key, equals, value = setting.partition("=")
            if not (name and comma and equals and value):
                raise ValueError(
                    "--host-policy option format is '<policy_name>,<setting>=<value>'. "
                    f"Got {argument}"
                )
            match key:
                case "cpu-cores":
                    cores = _cores(value)
                case "numa-node":
                    cores = _cores_of_node(value, nodes)
                case _:
                    raise ValueError(f"unsupported host policy setting '{key}'")
            known = self._cores.get(name)
            self._cores[name] = cores if known is None else known & cores or cores

    def cores_of(self, name: str) -> frozenset[int]:
        """The cores of a policy; empty means wherever the system likes."""
        return self._cores.get(name, frozenset())


def _cores(value: str) -> frozenset[int]:
    cores: set[int] = set()
    for part in value.split(","):
        bounds = _RANGE.fullmatch(part)
        if bounds is None or not int(bounds[1]) <= int(bounds[2]) <= MAX_CORE:
            raise ValueError(
                "host policy setting 'cpu-cores' format is "
                f"'<lower_cpu_core_id>-<upper_cpu_core_id>'. Got {value}"
            )
        cores |= set(range(int(bounds[1]), int(bounds[2]) + 1))
    return frozenset(cores)


def _cores_of_node(value: str, nodes: Path) -> frozenset[int]:
    try:
        text = (nodes / f"node{int(value)}" / "cpulist").read_text().strip()
    except (ValueError, OSError):
        raise ValueError(f"host policy setting 'numa-node' names no node: {value}") from None
    # The kernel writes a single core without a dash.
    return _cores(",".join(part if "-" in part else f"{part}-{part}" for part in text.split(",")))
