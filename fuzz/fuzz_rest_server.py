"""Fuzz a whole server by its REST port: `python fuzz/fuzz_rest_server.py --seconds 600`.

Requests are drawn from a grammar of routes, methods, headers and bodies that are nearly right.
Invariants: each is answered, by a status that the protocol knows; an error has a JSON text, and
never that of a defect; the server lives, writes no traceback, and once it has seen a fifth of the
requests has all the file descriptors and all the memory that it is ever going to need.
"""

# a command line prints

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time  # noqa: TID251  # bounds the run
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random  # noqa: TID251  # seeded; a fuzzer is no part of the server
from typing import Any, Final

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.conformance.conftest import ServerProcess
from tests.conformance.http_rest import FLAGS, Response, Rest, write_repository

SYSTEM: Final = "/v2/systemsharedmemory"
JSON_ROUTES: Final = (
    "/v2/models/simple/infer",
    "/v2/models/teller/generate",
    "/v2/models/speaker/generate_stream",
    "/v2/repository/index",
    "/v2/repository/models/ident_BOOL/load",
    "/v2/repository/models/nobody/unload",
    "/v2/logging",
    "/v2/trace/setting",
    "/v2/models/simple/trace/setting",
    f"{SYSTEM}/region/r/register",
    "/v2/cudasharedmemory/region/r/register",
)
STATUSES: Final = (200, 400, 404, 405, 500, 501, 503)
WORDS: Final = (
    "v2", "models", "simple", "teller", "rep", "versions", "1", "infer", "generate", "ready",
    "config", "stats", "repository", "index", "load", "unload", "systemsharedmemory", "region",
    "r", "status", "register", "logging", "trace", "setting", "health", "live", "", "..", "%00",
    "%ff", "é", "x" * 300,
)  # fmt: skip
ATOMS: Final[tuple[Any, ...]] = (
    None, True, 0, -1, 1.5, 2**64, 1e308, "", "x", "INT32", "é\0", [], {}, [1, 2], [[]],
    float("nan"),
)  # fmt: skip
KEYS: Final = (
    "inputs", "outputs", "name", "datatype", "shape", "data", "parameters", "id", "key",
    "byte_size", "binary_data_size", "PROMPT", "IN", "config", "ready", "trace_rate", "log_info",
)  # fmt: skip
HEADERS: Final[Mapping[str, tuple[str, ...]]] = {
    "Inference-Header-Content-Length": ("0", "1", "-1", "x", "{length}", "99999"),
    "Content-Encoding": ("gzip", "deflate", "br", "identity"),
    "Accept-Encoding": ("gzip", "deflate;q=0.5, gzip;q=x", ";;,", "*"),
    "endpoint-load-metrics-format": ("text", "json", "xml"),
    "traceparent": ("00-" + "1" * 32 + "-" + "2" * 16 + "-01", "00-0-0-0"),
    "my_h": ("v", ""),
    "timeout": ("1",),
}
# After a fifth of a run: what a busy allocator may still keep, and sockets on their way out.
MORE_MEMORY: Final = 1.1
MORE_KIB: Final = 8192
MORE_FILES: Final = 4
# A model that is loaded has a process and pipes of its own, so loads are few.
LOADS: Final = 0.02


@dataclass(frozen=True)
class Drawn:
    """A request that may be anything."""

    method: str
    path: str
    body: bytes
    headers: Mapping[str, str]


def value(random: Random, depth: int = 0) -> Any:
    kind = random.random()
    if depth > 3 or kind < 0.5:
        return random.choice(ATOMS)
    if kind < 0.7:
        return [value(random, depth + 1) for _ in range(random.randrange(4))]
    return {random.choice(KEYS): value(random, depth + 1) for _ in range(random.randrange(5))}


def draw(random: Random) -> Drawn:
    """A request of the grammar that unloads nothing and has no stream of responses."""
    while True:
        known = random.random() < 0.7
        path = random.choice(JSON_ROUTES) if known else "/" + "/".join(
            random.choices(WORDS, k=random.randrange(1, 7))
        )  # fmt: skip
        is_load = path.endswith("/load") and random.random() > LOADS
        if not is_load and not path.endswith("/unload") and "/v2/models/rep/" not in path:
            break
    body = json.dumps(value(random)).encode()
    headers = {
        name: random.choice(values).format(length=len(body))
        for name, values in HEADERS.items()
        if random.random() < 0.1
    }
    method = random.choice(("POST", "POST", "POST", "GET", "PUT"))
    return Drawn(method, path.encode("ascii", "ignore").decode(), body, headers)


def judge(drawn: Drawn, response: Response) -> None:
    """Raises AssertionError for an answer that no request may get."""
    assert response.status in STATUSES, (drawn, response)
    if response.status >= 400 and "/health" not in drawn.path:
        assert response.json().get("error") not in (None, "internal server error"), (
            drawn,
            response,
        )


def resident_kib(server: ServerProcess) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def calm_down(rest: Rest) -> None:
    """Undo what requests of the grammar may have ordered."""
    rest.post("/v2/logging", {"log_info": True, "log_warning": True, "log_error": True})
    rest.post(f"{SYSTEM}/unregister")


def fuzz(server: ServerProcess, rest: Rest, random: Random, seconds: float) -> int:
    """How many requests were answered; AssertionError as soon as one was answered wrongly."""
    until = time.monotonic() + seconds
    answered = 0
    while time.monotonic() < until:
        drawn = draw(random)
        judge(drawn, rest.ask(drawn.method, drawn.path, drawn.body, drawn.headers))
        answered += 1
    assert server.process.poll() is None, "the server has ended"
    calm_down(rest)
    return answered


def main() -> int:
    parser = argparse.ArgumentParser(description="fuzz a server by its REST port")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random = Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        repository, notes = Path(scratch) / "models", Path(scratch) / "notes"
        repository.mkdir()
        notes.mkdir()
        write_repository(repository, notes)
        server = ServerProcess(repository, *FLAGS)
        rest = Rest(server.http)
        answered = fuzz(server, rest, random, options.seconds / 5)
        files, kib = server.open_files(), resident_kib(server)
        answered += fuzz(server, rest, random, options.seconds * 4 / 5)
        more_files, more_kib = server.open_files(), resident_kib(server)
        rest.close()
        status = server.stop()
    print(f"seed {options.seed}: {answered} requests, exit status {status}")
    print(f"descriptors {files}, then {more_files}; memory {kib} KiB, then {more_kib} KiB")
    tracebacks = [line for line in server.lines if "Traceback" in line]
    flat = more_files <= files + MORE_FILES and more_kib <= kib * MORE_MEMORY + MORE_KIB
    return 0 if flat and not status and not tracebacks else 1


if __name__ == "__main__":
    sys.exit(main())
