"""How much memory this process may still take: what the machine has, or what its group allows."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_MEMINFO: Final = Path("/proc/meminfo")
_CGROUP: Final = Path("/sys/fs/cgroup")


def available_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """The lesser of both, in bytes; None where neither can be read."""
    found = [size for size in (_of_machine(meminfo), _of_group(cgroup)) if size is not None]
    return min(found, default=None)


def _of_machine(meminfo: Path) -> int | None:
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None


def _of_group(cgroup: Path) -> int | None:
    """What a container may still take; its page cache is counted as taken, but can be dropped."""
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((cgroup / "memory.current").read_text())
        statistics = (cgroup / "memory.stat").read_text().splitlines()
        cache = next(int(line.split()[1]) for line in statistics if line.startswith("file "))
        return max(0, int(limit) - used + cache)
    except (OSError, ValueError, IndexError, StopIteration):
        return None
