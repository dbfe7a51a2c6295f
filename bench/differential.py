"""The Python backend against the real Triton: the same models, the same requests, every answer.

    python bench/differential.py [--record] [--only KEY] [--logs FOLDER] [--ask-fatal]

Both servers get a copy of tests/conformance/differential/models, each its turn, and are asked the
same things by the same client. A server that ends over a question is started again, asked the same
once more, and asked the rest; what is known to end Triton is left out unless `--ask-fatal` is
there, which shows whether it still does. Each difference is printed with its explanation; one that
has none makes the command fail. `--record` writes what was said to recorded.json beside the models,
against which the test suite holds Troupe where there is no Triton. Triton is installed by the first
run (docs/peers.md).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Self

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "conformance" / "differential"))

import peers
from asks import ENDS_TRITON
from differences import ENDS, explanation
from drive import THE_SERVER_ENDS, Addresses, Driver, Record, copy_models
from peer_servers import start_triton, start_troupe
from processes import ServerFailed

RECORDED = Path(__file__).parents[1] / "tests" / "conformance" / "differential" / "recorded.json"
FLAGS = ("--model-control-mode=explicit", "--log-verbose=1")
STARTS = {"triton": start_triton, "troupe": start_troupe}


class Revivable:
    """One server on a copy of the models; a context manager that starts it, and again if it ends.

    `log_text` is what all of them wrote into their logs.
    """

    def __init__(self, server: str, repository: Path, log: Path) -> None:
        self._name = server
        self._start = STARTS[server]
        self._repository = repository
        self._log = log
        self._logs: list[Path] = []
        self._running = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def start(self) -> Addresses:
        log = self._log.with_suffix(f".{len(self._logs)}.log")
        environment = {"PYTHONDONTWRITEBYTECODE": "1"}  # a new file would count as a changed model
        started = self._start(self._repository, log=log, flags=FLAGS, environment=environment)
        endpoint = self._running.enter_context(started)
        self._logs.append(log)
        self._server = endpoint.server
        return Addresses(endpoint.http, endpoint.grpc, endpoint.metrics)

    def revive(self, seconds: float) -> Addresses | None:
        """See `drive.Revive`."""
        status = self._server.ended_within(seconds)
        if status is None:
            return None
        print(f"{self._name} ended with {status}, and is started again", flush=True)
        self._running.close()
        return self.start()

    def log_text(self) -> str:
        return "".join(log.read_text(errors="replace") for log in self._logs)


def ask_everything(server: str, folder: Path, log: Path, fatal: Collection[str]) -> Record:
    """Start a server on a copy of the models and write down all that it says."""
    repository = folder / server
    copy_models(repository)
    with Revivable(server, repository, log) as peer:
        driver = Driver(peer.start(), repository=repository, fatal=fatal, revive=peer.revive)
        try:
            record = driver.run()
        finally:
            driver.close()
    driver.log_lines(peer.log_text())
    for key in dict.fromkeys(driver.ended):
        again = "it did so again" if record[key] == THE_SERVER_ENDS else "then it answered"
        print(f"{server} ended over {key}; asked once more, {again}", flush=True)
    return record


def compare(said: dict[str, Record], only: str | None) -> int:
    """Print a row for each difference; the number of those that nobody has explained."""
    unexplained = 0
    differing = 0
    for key in said["triton"]:
        if only is not None and only not in key:
            continue
        values = {
            server: json.dumps(record[key], sort_keys=True) for server, record in said.items()
        }
        if values["triton"] == values["troupe"]:
            continue
        differing += 1
        ended = said["triton"][key] == THE_SERVER_ENDS
        reason = ENDS if ended else explanation(key)
        unexplained += reason is None
        print(f"\n{key}: {reason or 'NOT EXPLAINED'}")
        for server, value in values.items():
            print(f"  {server:6} {value}")
    count = len(said["triton"])
    print(f"\n{count} answers, {differing} differ, {unexplained} without an explanation")
    return unexplained


def as_recorded(said: dict[str, Record], before: Record) -> str:
    """What Triton said to everything, and Troupe where it said something else; a line for each.

    Where Triton ended this time, what it said `before` counts: some questions end it now and then.
    """
    triton = {
        key: before.get(key, answer) if answer == THE_SERVER_ENDS else answer
        for key, answer in said["triton"].items()
    }
    differing = {key: answer for key, answer in said["troupe"].items() if triton[key] != answer}
    parts = []
    for server, record in (("triton", triton), ("troupe", differing)):
        lines = [
            f"{json.dumps(key)}: {json.dumps(record[key], ensure_ascii=False, sort_keys=True)}"
            for key in sorted(record)
        ]
        parts.append(f'"{server}": {{\n' + ",\n".join(lines) + "\n}")
    return "{" + ",\n".join(parts) + "}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="the Python backend against the real Triton")
    parser.add_argument("--record", action="store_true", help="write recorded.json")
    parser.add_argument("--only", help="print only keys that contain this")
    parser.add_argument("--logs", type=Path, help="keep the servers' logs in this folder")
    parser.add_argument("--ask-fatal", action="store_true", help="ask what ends Triton as well")
    options = parser.parse_args()
    try:
        peers.install("triton")
    except (peers.CannotInstall, subprocess.CalledProcessError) as problem:
        print(f"skipped, there is no Triton to compare with: {problem}")
        return 0
    with tempfile.TemporaryDirectory(prefix="differential-") as scratch:
        folder = Path(scratch)
        logs = options.logs or folder
        try:
            said = {
                server: ask_everything(
                    server,
                    folder,
                    logs / f"{server}.log",
                    ENDS_TRITON if server == "triton" and not options.ask_fatal else (),
                )
                for server in STARTS
            }
        except ServerFailed as failed:
            print(failed, file=sys.stderr)
            return 1
    unexplained = compare(said, options.only)
    if options.record:
        before = json.loads(RECORDED.read_text())["triton"]
        RECORDED.write_text(as_recorded(said, before))
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
