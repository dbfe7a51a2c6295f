"""The scheduling of Python models over the wire: batches, orders and refusals as clients see them.

Nothing here waits for a while and hopes. A model tells a pipe which requests it has begun to
execute, and reads from another one before it answers; the server's gauge of pending requests tells
when what was sent has reached the queue.
"""

from __future__ import annotations

import os
import queue
import re
import select
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

PATIENCE_SECONDS: Final = 20.0

IO = """
backend: "python"
input { name: "INPUT" data_type: TYPE_INT32 dims: [ 1 ] }
output { name: "OUTPUT" data_type: TYPE_INT32 dims: [ 1 ] }
"""
MODELS: Final = {
    "plain": "max_batch_size: 8",
    "grows": "max_batch_size: 8 dynamic_batching { }",
    "prefers": "max_batch_size: 8 dynamic_batching { preferred_batch_size: [ 4, 8 ] }",
    "delays": (
        "max_batch_size: 8 dynamic_batching { preferred_batch_size: [ 2, 6 ] "
        "max_queue_delay_microseconds: 60000000 }"
    ),
    "levels": (
        "max_batch_size: 1 dynamic_batching { priority_levels: 2 default_priority_level: 2 "
        "priority_queue_policy { key: 1 value { max_queue_size: 1 } } }"
    ),
    "bounded": (
        "max_batch_size: 1 dynamic_batching { default_queue_policy { max_queue_size: 2 } }"
    ),
    "rejects": (
        "max_batch_size: 1 dynamic_batching { default_queue_policy { timeout_action: REJECT "
        "default_timeout_microseconds: 100000 allow_timeout_override: true } }"
    ),
    "postpones": (
        "max_batch_size: 1 dynamic_batching { default_queue_policy { timeout_action: DELAY "
        "default_timeout_microseconds: 60000000 allow_timeout_override: true } }"
    ),
    "ordered": "max_batch_size: 1 dynamic_batching { preserve_ordering: true }",
}
INSTANCES: Final = {"ordered": 2}

# The requests of a batch are known by their values.
MODEL_PY = """
import os
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        pipe = os.path.join({pipes!r}, args["model_instance_name"])
        self.begun = os.open(pipe + ".begun", os.O_WRONLY)
        self.gate = os.open(pipe + ".gate", os.O_RDONLY)

    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(one, "INPUT").as_numpy() for one in requests]
        names = " ".join(str(value) for one in inputs for value in one.ravel())
        os.write(self.begun, (names + "\\n").encode())
        os.read(self.gate, 1)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", one)]) for one in inputs]
"""


class Instance:
    """The pipes of one model instance, held open so that neither end ever waits for the other."""

    def __init__(self, pipes: Path, name: str) -> None:
        self._ends = []
        for suffix in ("begun", "gate"):
            path = pipes / f"{name}.{suffix}"
            os.mkfifo(path)
            self._ends.append(os.open(path, os.O_RDWR))
        self.pipe, self._gate = self._ends  # what the model says, and what it waits for
        self._text = ""

    def begins(self) -> str:
        """The values of the next batch that this instance executes."""
        while "\n" not in self._text:
            ready, _, _ = select.select([self.pipe], [], [], PATIENCE_SECONDS)
            assert ready, "no batch has begun"
            self._text += os.read(self.pipe, 4096).decode()
        line, self._text = self._text.split("\n", 1)
        return line

    @property
    def is_idle(self) -> bool:
        """Whether no batch has begun that was not asked about."""
        return "\n" not in self._text and not select.select([self.pipe], [], [], 0)[0]

    def ends(self, batches: int = 1) -> None:
        """Let it answer for so many batches."""
        os.write(self._gate, b"x" * batches)

    def close(self) -> None:
        for end in self._ends:
            os.close(end)


Outcome = tuple[str, str]
"""A request's value, and "ok" or its error."""


@dataclass
class Wire:
    """One model, as a client has it, and its instances."""

    server: Any
    triton: grpcclient.InferenceServerClient
    model: str
    instances: list[Instance]
    outcomes: queue.SimpleQueue[Outcome] = field(default_factory=queue.SimpleQueue)

    @property
    def instance(self) -> Instance:
        return self.instances[0]

    def first_to_begin(self) -> Instance:
        """Wait until any instance has begun a batch, which `begins` then tells."""
        by_pipe = {one.pipe: one for one in self.instances}
        ready, _, _ = select.select(list(by_pipe), [], [], PATIENCE_SECONDS)
        assert ready, "no batch has begun"
        return by_pipe[ready[0]]

    def send(self, *values: int, priority: int = 0, timeout: int | None = None) -> None:
        """One request whose batch holds these values; `timeout` in microseconds."""
        array = np.array(values, np.int32).reshape(-1, 1)
        tensor = grpcclient.InferInput("INPUT", list(array.shape), "INT32")
        tensor.set_data_from_numpy(array)
        name = " ".join(map(str, values))

        def heard(result: grpcclient.InferResult, error: InferenceServerException | None) -> None:
            if error is None and not np.array_equal(result.as_numpy("OUTPUT"), array):
                self.outcomes.put((name, "somebody else's answer"))
                return
            self.outcomes.put((name, "ok" if error is None else str(error)))

        self.triton.async_infer(
            self.model, [tensor], heard, request_id=name, priority=priority, timeout=timeout
        )

    def queued(self, count: int) -> None:
        """Wait until exactly so many requests are pending."""
        gauge = re.compile(
            rf'nv_inference_pending_request_count{{model="{self.model}",version="1"}} (\d+)'
        )
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while True:
            with urllib.request.urlopen(f"http://{self.server.metrics}/metrics") as page:
                found = gauge.search(page.read().decode())
            assert found, "the gauge is always there"
            if int(found[1]) == count:
                return
            assert time.monotonic() < give_up_at, f"{found[1]} are pending instead of {count}"

    def hears(self, count: int = 1) -> list[Outcome]:
        """The next outcomes, in the order in which they came."""
        return [self.outcomes.get(timeout=PATIENCE_SECONDS) for _ in range(count)]

    def statistics(self) -> Any:
        (row,) = self.triton.get_inference_statistics(self.model).model_stats
        return row

    def batch_stats(self) -> dict[int, int]:
        return {one.batch_size: one.compute_infer.count for one in self.statistics().batch_stats}


Start = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def served(run_server: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server with every model of this module, and the pipes of their instances."""
    root = tmp_path_factory.mktemp("scheduling")
    pipes, repository = root / "pipes", root / "repository"
    pipes.mkdir()
    instances: dict[str, list[Instance]] = {}
    for model, config in MODELS.items():
        count = INSTANCES.get(model, 1)
        (repository / model / "1").mkdir(parents=True)
        (repository / model / "1" / "model.py").write_text(MODEL_PY.format(pipes=str(pipes)))
        group = f"instance_group {{ count: {count} kind: KIND_CPU }}"
        (repository / model / "config.pbtxt").write_text(f"{IO} {config} {group}")
        instances[model] = [Instance(pipes, f"{model}_0_{number}") for number in range(count)]
    with (
        run_server(repository) as server,
        grpcclient.InferenceServerClient(server.grpc) as triton,
    ):
        yield lambda model: Wire(server, triton, model, instances[model])
    for pair in instances.values():
        for instance in pair:
            instance.close()


def test_the_default_scheduler_never_batches_and_never_splits(served: Any) -> None:
    wire = served("plain")
    wire.send(1)
    assert wire.instance.begins() == "1"
    for values in ((2,), (3, 4, 5), (6,)):
        wire.send(*values)
    wire.queued(3)  # the worker has been given some of them ahead of time: they wait all the same
    wire.instance.ends(4)
    assert {wire.instance.begins() for _ in range(3)} == {"2", "3 4 5", "6"}
    assert sorted(wire.hears(4)) == [("1", "ok"), ("2", "ok"), ("3 4 5", "ok"), ("6", "ok")]
    assert wire.batch_stats() == {1: 3, 3: 1}
    row = wire.statistics()
    assert (row.inference_count, row.execution_count) == (6, 4)
    assert row.inference_stats.success.count == 4


def test_t8_batches_grow_to_the_maximum_while_the_instance_is_busy(served: Any) -> None:
    wire = served("grows")
    wire.send(0)
    assert wire.instance.begins() == "0"
    for value in range(1, 21):
        wire.send(value)
    wire.queued(20)
    wire.instance.ends(4)
    began = [wire.instance.begins().split() for _ in range(3)]
    assert [len(batch) for batch in began] == [8, 8, 4]
    assert {outcome for _, outcome in wire.hears(21)} == {"ok"}
    assert wire.batch_stats() == {1: 1, 4: 1, 8: 2}
    row = wire.statistics()
    assert (row.inference_count, row.execution_count) == (21, 4)
    assert row.inference_stats.queue.count == row.inference_stats.compute_infer.count == 21
    assert row.inference_stats.queue.ns > 0
    # Every member of a batch took as long as the whole batch.
    total = sum(one.batch_size * one.compute_infer.ns for one in row.batch_stats)
    assert row.inference_stats.compute_infer.ns == total


def test_t7_one_by_one_arrivals_saturate_at_the_smallest_preferred_size(served: Any) -> None:
    wire = served("prefers")
    wire.send(0)
    assert wire.instance.begins() == "0"
    for value in range(1, 11):
        wire.send(value)
        wire.queued(value)  # one by one
    wire.instance.ends(4)
    assert wire.instance.begins() == "1 2 3 4"
    assert wire.instance.begins() == "5 6 7 8"
    assert wire.instance.begins() == "9 10"
    assert {outcome for _, outcome in wire.hears(11)} == {"ok"}
    assert wire.batch_stats() == {1: 1, 2: 1, 4: 2}


def test_t6_what_comes_at_once_reaches_the_largest_preferred_size(served: Any) -> None:
    """A client's own batch is one request; with two more it makes the larger size."""
    wire = served("delays")
    wire.send(1, 2, 3)  # neither 2 nor 6: waits for company
    wire.queued(1)
    assert wire.instance.is_idle
    wire.send(4, 5, 6)
    assert wire.instance.begins() == "1 2 3 4 5 6"
    wire.instance.ends()
    wire.send(7, 8)
    assert wire.instance.begins() == "7 8"
    wire.instance.ends()
    assert {outcome for _, outcome in wire.hears(3)} == {"ok"}
    assert wire.batch_stats() == {2: 1, 6: 1}


def test_the_urgent_overtake_and_have_limits_of_their_own(served: Any) -> None:
    wire = served("levels")
    wire.send(0)
    assert wire.instance.begins() == "0"
    for pending, (value, priority) in enumerate([(1, 2), (2, 0), (3, 7), (4, 1)], start=1):
        wire.send(value, priority=priority)
        wire.queued(pending)
    wire.send(5, priority=1)
    ((name, error),) = wire.hears()
    assert name == "5"
    assert "StatusCode.UNAVAILABLE" in error
    assert "[request id: 5] Exceeds maximum queue size" in error
    wire.instance.ends(5)
    assert [wire.instance.begins() for _ in range(4)] == ["4", "1", "2", "3"]
    assert {outcome for _, outcome in wire.hears(5)} == {"ok"}
    # A refusal at a full queue is counted nowhere.
    assert wire.statistics().inference_stats.fail.count == 0


def test_a_queue_takes_exactly_as_many_as_it_may(served: Any) -> None:
    wire = served("bounded")
    wire.send(0)
    assert wire.instance.begins() == "0"
    for value in (1, 2):
        wire.send(value)
        wire.queued(value)
    for value in (3, 4):
        wire.send(value)
    refused = wire.hears(2)
    assert sorted(name for name, _ in refused) == ["3", "4"]
    assert all("Exceeds maximum queue size" in error for _, error in refused)
    wire.instance.ends(3)
    assert [wire.instance.begins() for _ in range(2)] == ["1", "2"]
    assert {outcome for _, outcome in wire.hears(3)} == {"ok"}


def test_a_timeout_rejects_and_may_only_be_shortened(served: Any) -> None:
    wire = served("rejects")
    wire.send(0)
    assert wire.instance.begins() == "0"
    began = time.monotonic()
    wire.send(1)
    wire.send(2, timeout=20_000)
    wire.send(3, timeout=60_000_000)  # cannot lengthen the 100 ms of the model
    refused = [*wire.hears(3)]
    took = time.monotonic() - began
    assert refused[0][0] == "2"
    assert sorted(name for name, _ in refused) == ["1", "2", "3"]
    for _, error in refused:
        assert "StatusCode.UNAVAILABLE" in error
        assert "Request timeout expired" in error
        assert "[request id" not in error
    assert 0.1 <= took < PATIENCE_SECONDS
    wire.instance.ends()
    assert wire.hears() == [("0", "ok")]
    row = wire.statistics()
    assert (row.inference_stats.success.count, row.inference_stats.fail.count) == (1, 3)
    assert row.execution_count == 1


def test_a_delayed_request_runs_after_those_that_are_in_time(served: Any) -> None:
    wire = served("postpones")
    wire.send(0)
    assert wire.instance.begins() == "0"
    sent_at = time.monotonic()
    wire.send(1, timeout=1)  # a microsecond: it is late as soon as it is there
    wire.queued(1)
    wire.send(2)
    wire.queued(2)
    assert time.monotonic() - sent_at > 1e-6
    wire.instance.ends(3)
    assert [wire.instance.begins() for _ in range(2)] == ["2", "1"]
    assert {outcome for _, outcome in wire.hears(3)} == {"ok"}
    assert wire.statistics().inference_stats.fail.count == 0


def test_preserved_order_holds_back_the_faster_instance(served: Any) -> None:
    wire = served("ordered")
    wire.send(1)
    slow = wire.first_to_begin()
    (fast,) = (one for one in wire.instances if one is not slow)
    assert slow.begins() == "1"
    wire.send(2)
    assert fast.begins() == "2"
    fast.ends()
    # Its next batch shows that the instance has finished the one before.
    wire.send(3)
    assert fast.begins() == "3"
    fast.ends()
    assert wire.outcomes.empty()
    slow.ends()
    assert wire.hears(3) == [("1", "ok"), ("2", "ok"), ("3", "ok")]
    assert wire.batch_stats() == {1: 3}
