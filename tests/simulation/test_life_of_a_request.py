"""Cases 1 to 9 of scheduling: what is refused on arrival, what fails, and the default scheduler."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import trio

from actors.policy.batching import RefusalCause
from protocol.datatypes import Array
from protocol.inference import InferRequest, Tensor
from protocol.status import ServerError, StatusCode, internal
from repo.backends.base import ExecuteRequest, Outcome
from simulation import faults
from simulation.ledger import Asked
from simulation.world import SimulatedModel, World
from tests.simulation.rig import Schedule, model_config

INPUTS = 'input {{ name: "INPUT0" data_type: TYPE_FP32 dims: [ 16 ] {} }}'
OUTPUT = 'output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 16 ] }'
M = f'backend: "simulated" max_batch_size: 8 {INPUTS.format("")} {OUTPUT}'
UNBATCHED = M.replace("max_batch_size: 8", "max_batch_size: 0")
STRINGS = M.replace("TYPE_FP32 dims: [ 16 ]", "TYPE_STRING dims: [ 2 ]", 1)
OPTIONAL = (
    M.replace(INPUTS.format(""), INPUTS.format("optional: true"))
    + ' input { name: "INPUT1" data_type: TYPE_FP32 dims: [ 16 ] }'
)
NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be "
    "prepended to each input shape. If you want to specify the full shape including the batch dim "
    "in your input dims config, try setting max_batch_size to zero. See the model configuration "
    "docs for more info on max_batch_size."
)


def floats(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


def short_of(tensor: Tensor, nbytes: int) -> Tensor:
    """The tensor, as a peer sends it whose bytes do not fit its shape."""
    return Tensor(tensor.name, tensor.datatype, tensor.shape, raw=bytes(tensor.raw)[:nbytes])


def refusal(config: str, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> ServerError:
    """How the model refuses these; nothing of it may be counted."""
    asked = Asked(name="q", client="client", model="M", at=0.0, order=0)

    async def scenario(world: World) -> None:
        request = InferRequest("M", id="q", inputs=list(inputs), requested_outputs=tuple(outputs))
        world.client().send(asked, request)
        counters = (await world.core.reader.read())["M", 1]
        assert (counters.success.count, counters.fail.count, counters.execution_count) == (0, 0, 0)

    World({"M": SimulatedModel(config)}).run(scenario)
    assert asked.error is not None
    assert asked.error.status is StatusCode.INVALID_ARG
    return asked.error


def named(name: str, array: Array) -> Tensor:
    return Tensor.from_array(name, array)


def test_1_a_batch_beyond_the_maximum_is_refused_and_counts_nowhere() -> None:
    error = refusal(M, [named("INPUT0", floats(9, 16))])
    assert error.message == ("[request id: q] inference request batch-size must be <= 8 for 'M'")


@pytest.mark.parametrize(
    ("config", "shape", "expected"),
    [
        (M, (1, 8), f"Expected [-1,16], got [1,8]. {NOTE}"),
        (UNBATCHED, (8,), "Expected [16], got [8]. "),
    ],
)
def test_2_another_shape_is_refused_with_the_one_expected(
    config: str, shape: tuple[int, ...], expected: str
) -> None:
    error = refusal(config, [named("INPUT0", floats(*shape))])
    assert error.message == (
        f"[request id: q] unexpected shape for input 'INPUT0' for model 'M'. {expected}"
    )


def test_3_bytes_that_do_not_fit_the_shape_are_refused() -> None:
    error = refusal(M, [short_of(named("INPUT0", floats(1, 16)), 60)])
    assert error.message == (
        "[request id: q] input byte size mismatch for input 'INPUT0' for model 'M'. "
        "Expected 64, got 60"
    )
    words = named("INPUT0", np.array([[b"a", b"b", b"c"]], np.object_))
    error = refusal(STRINGS, [Tensor("INPUT0", "BYTES", (1, 2), raw=words.raw)])
    assert error.message == (
        "[request id: q] unexpected number of string elements 3 for inference input 'INPUT0' for "
        "model 'M', expecting 2"
    )


def test_4_inputs_that_are_missing_are_named() -> None:
    error = refusal(OPTIONAL, [])
    assert error.message == (
        "[request id: q] expected number of inputs between 1 and 2 but got 0 inputs for model 'M'. "
        "Got input(s) [], but missing required input(s) ['INPUT1']. Please provide all required "
        "input(s)."
    )


def test_5_an_output_that_the_model_does_not_have_is_refused() -> None:
    error = refusal(M, [named("INPUT0", floats(1, 16))], outputs=["NOPE"])
    assert error.message == "unexpected inference output 'NOPE' for model 'M'"


def test_6_a_client_s_batch_runs_whole_on_the_default_scheduler() -> None:
    schedule = Schedule(model_config(None)).send(0, "a", 4).play()
    assert schedule.batches == [(0, "a")]
    assert schedule.counters.inference_count == 4
    assert schedule.counters.execution_count == 1
    assert schedule.counters.success.count == 1
    assert schedule.batch_stats == {4: 1}


def test_7_a_batch_that_fails_as_a_whole_fails_each_of_its_requests() -> None:
    """Triton counts the execution if its backend reports it; here every execution is reported."""

    def broken(_: Sequence[ExecuteRequest]) -> Sequence[Outcome]:
        raise internal("out of memory")

    async def scenario(world: World) -> None:
        client = world.client()
        asked = [client.ask("m", name) for name in "abc"]
        await world.all_answered()
        assert [one.error and one.error.message for one in asked] == ["out of memory"] * 3
        counters = (await world.core.reader.read())["m", 1]
        assert counters.fail.count == counters.failures["BACKEND"] == 3
        assert counters.success.count == counters.inference_count == 0
        assert counters.execution_count == 1

    config = model_config(None) + " dynamic_batching { preferred_batch_size: [ 3 ] }"
    world = World({"m": SimulatedModel(config, together=broken)})
    assert world.run(scenario).batches() == [(0.0, 3)]


def test_7_a_lost_worker_fails_what_it_was_executing_and_the_next_batch_runs() -> None:
    async def scenario(world: World) -> None:
        client = world.client()
        lost, later = client.ask("m", "lost"), client.ask("m", "later")
        await trio.sleep(0.5)
        faults.worker_loss(world, "m_0_0")
        await world.all_answered()
        assert lost.error is not None
        assert lost.error.message == "Stub process 'm_0_0' is not healthy."
        assert lost.final is not None
        assert lost.final.at == 0.5
        assert later.error is None

    models = {"m": SimulatedModel(model_config(None), latency=lambda _: 1.0)}
    assert World(models).run(scenario).batches() == [(0.0, 1), (0.5, 1)]


def test_8_the_default_scheduler_spreads_requests_and_never_batches() -> None:
    schedule = Schedule(model_config(None, instances=2), duration=100)
    schedule.send(0, "a").send(0, "b").send(0, "c").play()
    assert schedule.answered == {"a": 100, "b": 100, "c": 200}
    assert schedule.batch_stats == {1: 3}
    assert set(schedule.instances[:2]) == {"m_0_0", "m_0_1"}


def test_9_a_queued_request_that_is_cancelled_is_not_executed() -> None:
    """Triton's default scheduler never looks at cancellations: there it still executes."""
    schedule = Schedule(model_config(None), duration=100)
    schedule.send(0, "a").send(0, "b").cancel(50, "b").send(60, "c").play()
    assert schedule.batches == [(0, "a"), (100, "c")]
    assert schedule.refused == [(50, "b", RefusalCause.CANCELLED)]
    assert schedule.counters.failures["CANCELED"] == 1


def test_9_a_request_that_executes_is_not_interrupted() -> None:
    schedule = Schedule(model_config(None), duration=100)
    schedule.send(0, "a").cancel(50, "a").play()
    assert schedule.answered == {"a": 100}
    assert schedule.refused == []
