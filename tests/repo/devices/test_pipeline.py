"""Batches in three stages on GPUs in virtual time: what overlaps, what must not, what waits."""

from __future__ import annotations

import numpy as np
import pytest

from protocol.inference import DeviceTensor, InferResponse, Tensor
from protocol.status import ServerError
from repo.backends.base import Outcome, Timings
from repo.devices.fake import FakeGpu, Operation
from repo.devices.lane import DEVICE_POOL_BYTES, Lanes
from repo.devices.pipeline import Pipeline, is_stageable
from repo.devices.pools import SMALLEST
from repo.devices.port import DeviceLost, DeviceSpan, MemoryUse, NoDevices
from repo.pbtxt import parse_config
from tests.repo.devices.fake_model import Doubling, lanes, request

FOUR_BYTES = 0.25  # seconds per byte: a row of one FP32 takes a second each way


class Rig:
    """One instance, whose model computes for `seconds`."""

    def __init__(
        self, gpu: FakeGpu | None = None, of: Lanes | None = None, *, seconds: float = 2.0
    ) -> None:
        self.gpu = gpu or FakeGpu(seconds_per_byte=FOUR_BYTES)
        self.lane = (of or lanes(self.gpu)).open(self.gpu.device_id)
        self.model = Doubling(self.gpu, self.lane, seconds)
        self.landed: list[float] = []
        self.pipeline: Pipeline[str] = Pipeline(
            self.lane,
            self.model,
            version="1",
            max_batch_size=8,
            notify=lambda: self.landed.append(self.gpu.now),
        )

    def begin(self, *values: float, name: str = "") -> bool:
        return self.pipeline.begin([request(*values)], Timings(), name)

    def finish(self) -> list[list[float]]:
        """The values of each response of the oldest batch."""
        _, outcomes = self.pipeline.finish()
        return [values(outcome) for outcome in outcomes]

    def spans(self) -> list[tuple[str, float, float]]:
        return [(each.engine, each.start, each.end) for each in self.gpu.schedule]


def values(outcome: Outcome) -> list[float]:
    assert isinstance(outcome, InferResponse), outcome
    (output,) = outcome.outputs
    found: list[float] = output.array.ravel().tolist()
    return found


def test_the_stages_of_a_batch_follow_one_another() -> None:
    rig = Rig()
    timings = Timings()
    assert rig.pipeline.begin([request(3.0)], timings, "a")
    assert rig.spans() == [("in", 0.0, 1.0), ("compute", 1.0, 3.0), ("out", 3.0, 4.0)]
    assert len(rig.pipeline) == 1
    assert not rig.pipeline.has_landed()
    rig.gpu.advance(4.0)
    assert rig.landed == [4.0]
    assert rig.pipeline.has_landed()
    flight, outcomes = rig.pipeline.finish()
    assert flight.passenger == "a"
    assert [values(outcome) for outcome in outcomes] == [[6.0]]
    assert len(rig.pipeline) == 0
    assert timings.input_ns > 0
    assert timings.infer_ns > 0
    assert timings.output_ns > 0


def test_copies_of_the_next_batch_overlap_with_computing() -> None:
    rig = Rig()
    assert rig.begin(1.0)
    assert rig.begin(2.0)
    assert not rig.begin(3.0), "two are in flight"
    assert rig.finish() == [[2.0]]
    assert rig.begin(3.0)
    assert rig.finish() == [[4.0]]
    assert rig.finish() == [[6.0]]
    assert rig.spans() == [
        ("in", 0.0, 1.0), ("compute", 1.0, 3.0), ("out", 3.0, 4.0),
        ("in", 1.0, 2.0), ("compute", 3.0, 5.0), ("out", 5.0, 6.0),
        ("in", 4.0, 5.0), ("compute", 5.0, 7.0), ("out", 7.0, 8.0),
    ]  # fmt: skip
    second_in, second_out = rig.gpu.schedule[3], rig.gpu.schedule[5]
    assert second_in.overlaps(rig.gpu.schedule[1])
    assert second_out.overlaps(rig.gpu.schedule[7])
    assert rig.landed == [4.0, 6.0, 8.0]


def test_every_instance_has_streams_of_its_own() -> None:
    gpu = FakeGpu(seconds_per_byte=FOUR_BYTES)
    shared = lanes(gpu)
    first, second = Rig(gpu, shared), Rig(gpu, shared)
    assert first.begin(1.0)
    assert second.begin(1.0)
    streams = {each.stream for each in gpu.schedule}
    assert len(streams) == len(gpu.schedule) == 6
    assert first.finish() == second.finish() == [[2.0]]


def test_requests_are_joined_and_cut() -> None:
    rig = Rig()
    batch = [request(1.0, 2.0), request(3.0, number=2)]
    assert rig.pipeline.begin(batch, Timings(), "")
    assert [each.what for each in rig.gpu.schedule] == ["8 B", "4 B", "double", "12 B"]
    _, outcomes = rig.pipeline.finish()
    assert [values(outcome) for outcome in outcomes] == [[2.0, 4.0], [6.0]]
    assert [one.id for one in outcomes if isinstance(one, InferResponse)] == ["1", "2"]
    too_many = [request(*range(5)), request(*range(4))]
    with pytest.raises(ServerError, match="batch size 9, max allowed is 8"):
        rig.pipeline.begin(too_many, Timings(), "")
    assert len(rig.pipeline) == 0


def test_a_model_that_raises_fails_its_batch_alone_and_keeps_no_buffer() -> None:
    rig = Rig()
    assert rig.begin(1.0)
    with pytest.raises(ServerError, match="nothing to double"):
        rig.begin()
    assert rig.finish() == [[2.0]]
    assert rig.lane.pinned.used == rig.lane.memory.used == 0


def test_an_output_that_is_too_short_fails_the_batch() -> None:
    rig = Rig()
    batch = [request(1.0), request(2.0)]
    assert rig.pipeline.begin(batch, Timings(), "")
    object.__setattr__(batch[1], "batch_size", 2)
    _, outcomes = rig.pipeline.finish()
    (error, same) = outcomes
    assert isinstance(error, ServerError)
    assert error is same
    assert "expected batch size of at least 3 in model output, got 2" in error.message
    assert rig.lane.pinned.used == 0


def test_tensors_on_the_device_are_used_where_they_are_and_stay_if_wanted() -> None:
    rig = Rig()
    made = rig.gpu.allocate(4)
    rig.gpu.write(made, np.float32(5.0).tobytes())
    given = DeviceTensor("IN", "FP32", (1, 1), DeviceSpan(made))
    kept = frozenset({"OUT"})
    assert rig.pipeline.begin([request(tensor=given, on_device=kept)], Timings(), "")
    _, (outcome,) = rig.pipeline.finish()
    assert isinstance(outcome, InferResponse)
    (output,) = outcome.outputs
    assert isinstance(output, DeviceTensor)
    assert [each.engine for each in rig.gpu.schedule] == ["compute"], "nothing was copied"
    assert rig.model.seen[0]["IN"].address == made.address
    # The next step takes it from there, beside a request that comes from the host.
    batch = [request(tensor=output.renamed("IN"), on_device=kept), request(1.0)]
    assert rig.pipeline.begin(batch, Timings(), "")
    _, outcomes = rig.pipeline.finish()
    assert [values(one) for one in outcomes] == [[20.0], [2.0]]
    assert isinstance(outcomes[0], InferResponse)
    assert isinstance(outcomes[0].outputs[0], DeviceTensor)
    assert isinstance(outcomes[1], InferResponse)
    assert type(outcomes[1].outputs[0]) is Tensor


def test_an_exhausted_pool_lets_a_batch_wait_for_the_one_before() -> None:
    gpu = FakeGpu(seconds_per_byte=FOUR_BYTES)
    # Room for one input buffer, so that even outputs have to take ordinary memory.
    rig = Rig(gpu, lanes(gpu, pinned_bytes=SMALLEST))
    assert rig.begin(1.0)
    assert not rig.begin(2.0), "its turn comes when the first has ended"
    assert rig.finish() == [[2.0]]
    assert rig.begin(2.0)
    assert rig.finish() == [[4.0]]
    assert rig.lane.pinned.used == 0
    rig = Rig(gpu, lanes(gpu, memory_bytes=SMALLEST))
    assert rig.begin(1.0)
    assert not rig.begin(2.0), "the same on the device"
    assert rig.lane.pinned.used == 2 * SMALLEST, "it holds nothing meanwhile"
    assert rig.finish() == [[2.0]]


def test_a_batch_larger_than_the_pools_is_served_all_the_same() -> None:
    gpu = FakeGpu()
    rig = Rig(gpu, lanes(gpu, pinned_bytes=0, memory_bytes=0))
    assert rig.begin(1.0, 2.0)
    free = gpu.memory_use().free
    assert rig.finish() == [[2.0, 4.0]]
    assert gpu.memory_use().free == free + SMALLEST, "what was made for it is freed"


def test_a_lost_device_tells_and_what_was_in_flight_is_known() -> None:
    rig = Rig()
    assert rig.begin(1.0, name="first")
    rig.gpu.lose()
    with pytest.raises(DeviceLost):
        rig.begin(2.0)
    with pytest.raises(DeviceLost):
        rig.pipeline.finish()
    assert [flight.passenger for flight in rig.pipeline.abandon()] == ["first"]
    assert len(rig.pipeline) == 0
    assert rig.lane.pinned.used == 0


def test_an_empty_input_needs_no_buffer() -> None:
    rig = Rig(seconds=0.0)
    with pytest.raises(ServerError, match="nothing to double"):
        rig.begin()
    assert rig.gpu.schedule == []


def test_operations_that_touch_do_not_overlap() -> None:
    first, second = Operation("in", 1, 0.0, 1.0), Operation("out", 1, 1.0, 2.0)
    assert not first.overlaps(second)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("", True),
        ('input { name: "S" data_type: TYPE_STRING dims: 1 }', False),
        ('output { name: "S" data_type: TYPE_STRING dims: 1 }', False),
        ('input { name: "R" data_type: TYPE_FP32 dims: 1 allow_ragged_batch: true }', False),
        ("sequence_batching { }", False),
        ('batch_input { kind: BATCH_ELEMENT_COUNT target_name: "T" }', False),
    ],
)
def test_only_plain_batches_have_stages(text: str, plain: bool) -> None:
    config = parse_config(
        'name: "m" input { name: "IN" data_type: TYPE_FP32 dims: 1 } ' + text, "x"
    )
    assert is_stageable(config) is plain


def test_pools_have_the_sizes_that_flags_say() -> None:
    gpu = FakeGpu(3)
    of = Lanes.of_flags(NoDevices(), 5, ("3:7", "3:9", "1:2"))
    assert (of._pinned_bytes, of._memory_bytes) == (5, {3: 9, 1: 2})
    assert lanes(gpu).open(3).memory.limit == 1 << 19
    of = Lanes(lanes(gpu)._devices, pinned_bytes=1, memory_bytes={})
    assert of.open(3).memory.limit == DEVICE_POOL_BYTES
    assert of.open(3).memory is of.open(3).memory
    lane = of.open(3)
    lane.close()
    assert [stream.is_open for stream in gpu.streams[-3:]] == [False] * 3


def test_what_the_pool_of_pinned_memory_says_of_itself() -> None:
    gpu = FakeGpu(seconds_per_byte=FOUR_BYTES)
    of = lanes(gpu, pinned_bytes=1 << 16)
    assert of.pinned_use() == MemoryUse(1 << 16, 1 << 16), "it has its size before it is used"
    rig = Rig(gpu, of)
    assert rig.begin(1.0)
    assert of.pinned_use().used == 2 * SMALLEST, "an input and an output are on their way"
    assert rig.finish() == [[2.0]]
    assert of.pinned_use() == MemoryUse(1 << 16, 1 << 16)


def test_without_a_gpu_there_is_no_pinned_memory() -> None:
    of = Lanes(NoDevices(), pinned_bytes=1 << 16, memory_bytes={})
    assert of.pinned_use() == MemoryUse(0, 0)
