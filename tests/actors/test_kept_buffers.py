"""A serving process keeps the memory of its buffers between requests."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own, since the setting is for good. Each round frees two buffers at the end of
# the heap, as a request and its answer do.
SCRIPT = """
import resource, sys
from troupe.memory import keep_buffers
if "keep" in sys.argv and not keep_buffers():
    sys.exit("unknown")
bytes(600_000), bytes(600_000)  # from the second one on, glibc takes such buffers from the heap
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    request = bytearray(b"x" * 600_000)
    answer = request + b"x"
    del request, answer
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


def faults(*arguments: str) -> int:
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_buffers_are_not_mapped_anew_for_each_request() -> None:
    kept = faults("keep")

    assert kept < 1_000, "less than a handful of pages per round, of some 450"
    assert faults() > 10 * kept
