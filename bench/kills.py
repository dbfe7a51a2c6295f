"""Kills a model's worker two hundred times under load, and says who noticed.

    python bench/kills.py [--kills 200] [--clients 8]

Clients ask `sleep_5ms`, a Python model that takes its time, and one asks `simple`, which has no
worker, without a pause. As soon as a worker has answered something it is killed. Fails if a request
that was not inside the dead worker failed, if one failed with anything but Triton's text, if an
answer was wrong, or if the server holds more at the end than after the first few deaths.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import peers
from leaks import Held, held
from peer_servers import start_troupe
from processes import ServerFailed, process_tree

VICTIM = "sleep_5ms"
BYSTANDER = "simple"
INSTANCE = f"{VICTIM}_0_0"
NOT_HEALTHY = (
    f"Failed to process the request(s) for model instance '{INSTANCE}', message: Stub process "
    f"'{INSTANCE}' is not healthy."
)
MODELS = (
    Path(__file__).parent / "models" / VICTIM,
    peers.ROOT / "sample_repository" / BYSTANDER,
)
ANSWER_SECONDS = 30.0
# The first deaths bring the zygote about, and what comes with it.
WARM_UP_KILLS = 3
TOLERANCE_MIB = 8.0
POLL_SECONDS = 0.001


@dataclass
class Tally:
    """What the clients of one model saw; each has one request under way at a time."""

    answered: int = 0
    failures: dict[str, int] = field(default_factory=dict)  # by text
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, error: str | None) -> None:
        with self.lock:
            if error is None:
                self.answered += 1
            else:
                self.failures[error] = self.failures.get(error, 0) + 1

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


@dataclass(frozen=True)
class Verdict:
    """What came of the kills; `problems` is empty when all is as it should be."""

    answered: int
    failed: int
    bystander_answered: int
    seconds: float
    problems: list[str]


def ask(connection: http.client.HTTPConnection, model: str, value: int) -> str | None:
    """One request; None, or what was wrong with the answer."""
    datatype, inputs = ("FP32", 1) if model == VICTIM else ("INT32", 2)
    body = {
        "inputs": [
            {"name": f"INPUT{n}", "datatype": datatype, "shape": [1, 16], "data": [value] * 16}
            for n in range(inputs)
        ]
    }
    connection.request("POST", f"/v2/models/{model}/infer", json.dumps(body))
    answer = json.loads(connection.getresponse().read())
    if "error" in answer:
        return str(answer["error"])
    found = next(out["data"] for out in answer["outputs"] if out["name"] == "OUTPUT0")
    return None if found == [inputs * value] * 16 else f"wrong answer {found}"


def client(address: str, model: str, number: int, tally: Tally, stop: threading.Event) -> None:
    """Ask one model, one request after the other, until told to stop."""
    connection = http.client.HTTPConnection(address, timeout=ANSWER_SECONDS)
    value = number
    while not stop.is_set():
        value += 1
        try:
            tally.note(ask(connection, model, value % 1000))
        except (OSError, ValueError, http.client.HTTPException) as error:
            tally.note(f"{type(error).__name__}: {error}")
    connection.close()


def link_models(folder: Path) -> Path:
    """A repository of the two models."""
    repository = folder / "models"
    repository.mkdir()
    for model in MODELS:
        (repository / model.name).symlink_to(model)
    return repository


def workers(server: int) -> set[int]:
    """The worker processes of a server, but not the zygote that forks them."""
    found = set()
    for pid in process_tree(server):
        try:
            if pid != server and "memfd:troupe-progress" in Path(f"/proc/{pid}/maps").read_text():
                found.add(pid)
        except OSError:  # it ended meanwhile
            continue
    return found


def kill_one(server: int, tally: Tally) -> None:
    """Kill a worker once it has answered. Raises TimeoutError when none comes."""
    give_up_at = time.monotonic() + ANSWER_SECONDS
    before = tally.answered
    while time.monotonic() < give_up_at:
        alive = workers(server)
        if alive and tally.answered > before:
            os.kill(alive.pop(), signal.SIGKILL)
            return
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"no worker has answered within {ANSWER_SECONDS} s")


def run(address: str, server: int, kills: int, clients: int) -> Verdict:
    """Kill under load; everything the clients and /proc have to say about it."""
    asked, bystander = Tally(), Tally()
    stop = threading.Event()
    threads = [
        threading.Thread(target=client, args=(address, VICTIM, n * 100, asked, stop))
        for n in range(clients)
    ]
    threads.append(threading.Thread(target=client, args=(address, BYSTANDER, 0, bystander, stop)))
    for thread in threads:
        thread.start()
    began = time.monotonic()
    try:
        for _ in range(WARM_UP_KILLS):
            kill_one(server, asked)
        before = _between_deaths(server, asked)
        for _ in range(kills):
            kill_one(server, asked)
        after = _between_deaths(server, asked)
    finally:
        seconds = time.monotonic() - began
        stop.set()
        for thread in threads:
            thread.join()
    problems = _problems(asked, bystander, kills + WARM_UP_KILLS, clients)
    problems += after.more_than(before, TOLERANCE_MIB)
    return Verdict(asked.answered, asked.failed, bystander.answered, seconds, problems)


def _between_deaths(server: int, tally: Tally) -> Held:
    """What the server holds once the last dead worker has been replaced."""
    before = tally.answered
    while tally.answered <= before or len(workers(server)) != 1:
        time.sleep(POLL_SECONDS)
    return held(server)


def _problems(asked: Tally, bystander: Tally, kills: int, clients: int) -> list[str]:
    found = [
        f"{count} times {text}" for text, count in asked.failures.items() if text != NOT_HEALTHY
    ]
    if asked.failed > kills * clients:
        found.append(f"{asked.failed} failures are more than {clients} for each of {kills} kills")
    if bystander.failed:
        found.append(f"the other model failed: {bystander.failures}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="who notices that a worker is killed")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            log = Path(scratch) / "troupe.log"
            with start_troupe(link_models(Path(scratch)), log=log) as endpoint:
                verdict = run(endpoint.http, endpoint.server.pid, options.kills, options.clients)
        except (ServerFailed, TimeoutError) as failed:
            print(failed, file=sys.stderr)
            return 1
    print(
        f"{options.kills + WARM_UP_KILLS} kills in {verdict.seconds:.0f} s under "
        f"{options.clients} clients: {verdict.answered} requests answered, {verdict.failed} "
        f"failed; of the other model {verdict.bystander_answered} answered"
    )
    for problem in verdict.problems:
        print(f"PROBLEM: {problem}")
    return 1 if verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
