"""`python -m perf_analyzer`: the load generator without the rest of Troupe."""

from __future__ import annotations

import sys

from perf_analyzer.main import perf

if __name__ == "__main__":
    sys.exit(perf(sys.argv[1:]))
