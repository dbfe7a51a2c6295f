"""Stateful models in virtual time: every sequence that began is ended."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import trio

from perf_analyzer.session import Session
from tests.perf_analyzer.fake_server import FakeServer, Infer
from tests.perf_analyzer.runs import run

SEQUENCE: dict[str, Any] = {"name": "m", "sequence_batching": {}}


def sequence_server(seconds: float = 0.010) -> FakeServer:
    return FakeServer(latency=lambda _: seconds, config=SEQUENCE)


def by_sequence(server: FakeServer) -> dict[int, list[list[Infer]]]:
    """The requests of every sequence by id; an id may have been used several times."""
    found: dict[int, list[list[Infer]]] = defaultdict(list)
    for infer in server.infers:
        number = infer.parameters["sequence_id"]
        if infer.parameters["sequence_start"]:
            found[number].append([])
        found[number][-1].append(infer)
    return found


def all_ended(server: FakeServer) -> bool:
    sequences = itertools.chain.from_iterable(by_sequence(server).values())
    return all(
        [each.parameters["sequence_end"] for each in sequence]
        == [False] * (len(sequence) - 1) + [True]
        for sequence in sequences
    )


def test_sequences_have_ids_starts_and_ends() -> None:
    server = sequence_server()

    seen = run(
        server,
        "-p 500 --concurrency-range 2 --sequence-length 5 --sequence-length-variation 0",
    )

    found = by_sequence(server)
    assert seen.status == 0
    assert sorted(found) == list(range(1, len(found) + 1))
    assert all(len(uses) == 1 for uses in found.values())
    assert all(len(uses[0]) == 5 for uses in [found[each] for each in sorted(found)][:-2])
    assert all_ended(server)
    assert server.busiest == 2
    assert "  Using asynchronous calls for inference" in seen.lines
    assert seen.value("Sequence count") > 0


def test_ids_come_from_their_range() -> None:
    server = sequence_server()
    arguments = "-p 300 --sequence-length 3 --sequence-id-range 10:12 --concurrency-range"

    assert run(server, f"{arguments} 2").status == 0
    assert set(by_sequence(server)) == {10, 11}

    refused = run(sequence_server(), f"{arguments} 3")
    assert refused.status == 99
    assert "sequence id range specified is smaller" in refused.errors[0]


def test_a_change_of_level_ends_every_sequence() -> None:
    server = sequence_server()

    seen = run(server, "-p 300 --concurrency-range 2:4:2 --sequence-length 50")

    assert seen.status == 0
    assert all_ended(server)


def test_an_interrupted_run_ends_every_sequence() -> None:
    server = sequence_server()

    async def impatient(session: Session) -> None:
        await trio.sleep(0.5)
        session.interrupt()

    seen = run(server, "-p 5000 --concurrency-range 3 --sequence-length 500", meanwhile=impatient)

    assert seen.status == 0
    assert all_ended(server)


def test_serial_sequences_have_one_request_outstanding_each() -> None:
    for flag, serial in (("--serial-sequences", True), ("", False)):
        server = sequence_server(seconds=0.1)

        run(server, f"-p 500 -s 100 --request-rate-range 60 --num-of-sequences 3 {flag}")

        assert (server.busiest <= 3) is serial
        assert all_ended(server) or not serial


def test_sequences_follow_the_streams_of_the_data(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    streams = [[{"IN": [stream, step, 0, 0]} for step in range(count)]
               for stream, count in enumerate((4, 3, 2))]  # fmt: skip
    data.write_text(json.dumps({"data": streams}))
    server = sequence_server(seconds=0.001)

    seen = run(server, f"-p 300 --input-data {data}")

    assert " Successfully read data for 3 stream/streams." in seen.lines
    lengths = set()
    for (sequence,) in list(by_sequence(server).values())[:-1]:
        content = [list(memoryview(each.binary).cast("f")) for each in sequence]
        stream = int(content[0][0])
        assert content == [[stream, step, 0, 0] for step in range((4, 3, 2)[stream])]
        lengths.add(len(content))
    assert lengths == {2, 3, 4}


def test_a_range_of_sequences_has_an_end() -> None:
    assert (
        "The 'end' concurrency can not be 0"
        in (run(sequence_server(), "--concurrency-range 1:0 -l 50").errors[0])
    )


def test_sequences_are_not_batched_by_the_client() -> None:
    server = FakeServer(config={**SEQUENCE, "max_batch_size": 8})

    assert run(server, "-b 2").errors == [
        "error: can not specify batch size > 1 when using a sequence model"
    ]
