"""Traces of requests in virtual time: what is noted, when, and into which file it goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import trio

from actors.settings.options import ServerOptions
from protocol.inference import InferResponse, Tensor
from protocol.status import ServerError, internal
from protocol.v2_json_control import TraceUpdate
from repo.backends.base import ExecuteRequest, Outcome
from simulation.world import Scenario, SimulatedModel, World
from tests.simulation.ensemble_worlds import CHAIN, asking, member, producer, stream
from tests.simulation.rig import model_config
from tests.simulation.trace_reading import heads, objects, ran, times

PLAIN = model_config(None)


def tracing(
    folder: Path,
    models: Mapping[str, SimulatedModel],
    scenario: Scenario,
    *settings: str,
    level: str = "TIMESTAMPS",
    cache: bool = False,
) -> None:
    flags = (f"triton,file={folder / 't'}", f"level={level}", "rate=1", *settings)
    cached = ("local,size=100000",) if cache else ()
    options = ServerOptions(
        model_repository=("simulated",), trace_config=flags, cache_config=cached
    )
    World(models, options=options).run(scenario)


def model(latency: float = 0.0, config: str = PLAIN) -> SimulatedModel:
    return SimulatedModel(config, latency=lambda _: latency)


# --- what is noted -------------------------------------------------------------------------------


def test_a_request_is_traced_from_its_admission_to_its_answer(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await trio.sleep(1.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: world.infer("m", id="first"))
            await trio.sleep(0.25)
            nursery.start_soon(lambda: world.infer("m"))

    tracing(tmp_path, {"m": model(0.5)}, scenario)
    assert times(tmp_path / "t") == {1: ran(1.0, 1.0, 1.5), 2: ran(1.25, 1.5, 2.0)}
    assert heads(tmp_path / "t") == [
        {"id": 1, "model_name": "m", "model_version": 1, "request_id": "first"},
        {"id": 2, "model_name": "m", "model_version": 1},
    ]


def test_the_file_is_an_array_of_objects_with_one_timestamp_each(tmp_path: Path) -> None:
    tracing(tmp_path, {"m": model(0.25)}, lambda world: _infer(world, 1))
    assert (tmp_path / "t").read_text() == (
        '[{"id":1,"model_name":"m","model_version":1,"request_id":"0"},'
        '{"id":1,"timestamps":[{"name":"REQUEST_START","ns":0}]},'
        '{"id":1,"timestamps":[{"name":"QUEUE_START","ns":0}]},'
        '{"id":1,"timestamps":[{"name":"COMPUTE_START","ns":0}]},'
        '{"id":1,"timestamps":[{"name":"COMPUTE_INPUT_END","ns":0}]},'
        '{"id":1,"timestamps":[{"name":"COMPUTE_OUTPUT_START","ns":250000000}]},'
        '{"id":1,"timestamps":[{"name":"COMPUTE_END","ns":250000000}]},'
        '{"id":1,"timestamps":[{"name":"REQUEST_END","ns":250000000}]}]'
    )


def test_names_and_ids_are_escaped(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.infer("m", id='"},\n{"\\')

    tracing(tmp_path, {"m": model()}, scenario)
    assert heads(tmp_path / "t")[0]["request_id"] == '"},\n{"\\'


def test_an_ensemble_has_a_child_for_every_step(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.ask(asking("e", id="q"))

    tracing(tmp_path, {"e": SimulatedModel(CHAIN), "a": member(0.25), "b": member(0.5)}, scenario)
    assert times(tmp_path / "t") == {
        1: {"REQUEST_START": 0.0, "QUEUE_START": 0.0, "REQUEST_END": 0.75},
        2: ran(0.0, 0.0, 0.25),
        3: ran(0.25, 0.25, 0.75),
    }
    assert [(head["model_name"], head.get("parent_id")) for head in heads(tmp_path / "t")] == [
        ("e", None),
        ("a", 1),
        ("b", 1),
    ]


def test_a_request_without_a_trace_has_no_children(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        for _ in range(3):
            await world.ask(asking("e"))

    models = {"e": SimulatedModel(CHAIN), "a": member(), "b": member()}
    tracing(tmp_path, models, scenario, "rate=3")
    assert [head["model_name"] for head in heads(tmp_path / "t")] == ["e", "a", "b"]


def test_a_decoupled_request_ends_with_its_last_response(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await stream(world, asking("source"))

    tracing(tmp_path, {"source": producer(2, 0.25)}, scenario)
    assert times(tmp_path / "t") == {1: ran(0.0, 0.0, 0.5)}


def test_a_request_that_waits_for_an_identical_one_is_not_computed(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: world.ask(asking("m")))
            await trio.sleep(0.25)
            nursery.start_soon(lambda: world.ask(asking("m")))

    config = PLAIN + " response_cache { enable: true }"
    tracing(tmp_path, {"m": model(1.0, config)}, scenario, cache=True)
    assert times(tmp_path / "t") == {
        1: ran(0.0, 0.0, 1.0),
        2: {"REQUEST_START": 0.25, "QUEUE_START": 0.25, "REQUEST_END": 1.0},
    }


def test_a_cancelled_request_ends_when_it_has_left_the_server(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: world.infer("m"))
            await trio.sleep(0.25)
            with trio.move_on_after(0.25):
                await world.infer("m", id="queued")
            nursery.cancel_scope.cancel()

    tracing(tmp_path, {"m": model(1.0)}, scenario)
    found = times(tmp_path / "t")
    assert found[1] == ran(0.0, 0.0, 1.0)
    assert found[2] == {"REQUEST_START": 0.25, "QUEUE_START": 0.25, "REQUEST_END": 0.5}


def test_a_request_that_fails_is_traced_like_any_other(tmp_path: Path) -> None:
    def broken(_: ExecuteRequest) -> Outcome:
        return internal("broken")

    async def scenario(world: World) -> None:
        with pytest.raises(ServerError):
            await world.infer("m")

    models = {"m": SimulatedModel(PLAIN, latency=lambda _: 0.5, behaviour=broken)}
    tracing(tmp_path, models, scenario)
    assert times(tmp_path / "t") == {1: ran(0.0, 0.0, 0.5)}


def test_a_request_that_is_refused_before_the_queue_is_not_traced(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(ServerError):
            await world.infer("m", batch=99)
        assert world.core.calls.tracing.body("")["trace_count"] == "1"

    tracing(tmp_path, {"m": model()}, scenario, "count=1")
    assert not list(tmp_path.iterdir())


def test_requests_of_a_sequence_are_traced_each(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        for flags in (1, 0, 2):
            request = asking("m")
            request.correlation_id = 7
            request.sequence_flags |= flags
            await world.ask(request)

    config = PLAIN + (
        ' sequence_batching { direct { } control_input { name: "START" control {'
        " kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } } }"
    )
    tracing(tmp_path, {"m": model(0.25, config)}, scenario, level="TENSORS")
    inputs = [
        (item["id"], tensor["name"], tensor["data"])
        for item in objects(tmp_path / "t")
        if item.get("activity") == "TENSOR_BACKEND_INPUT"
        and isinstance(tensor := item["tensor"], dict)
    ]
    assert inputs == [
        (1, "INPUT", "0"), (1, "START", "1"),
        (2, "INPUT", "0"), (2, "START", "0"),
        (3, "INPUT", "0"), (3, "START", "0"),
    ]  # fmt: skip


# --- tensors -------------------------------------------------------------------------------------


def test_tensors_are_shown_as_they_come_in_and_go_out(tmp_path: Path) -> None:
    def answer(_: ExecuteRequest) -> Outcome:
        words = Tensor.from_array("WORDS", np.array([b'a"b', b"\xff"], np.object_))
        truths = Tensor.from_array("TRUTHS", np.array([[True], [False]]))
        halves = Tensor("HALVES", "BF16", (2,), raw=np.array([0x3FC0, 0xC000], "<u2").tobytes())
        numbers = Tensor.from_array("NUMBERS", np.array([0.1, 2.0], np.float32))
        lie = Tensor("LIE", "FP32", (3,), raw=b"12345")
        return InferResponse("m", "1", "", [words, truths, halves, numbers, lie])

    async def scenario(world: World) -> None:
        await world.infer("m", batch=2)

    models = {"m": SimulatedModel(PLAIN, behaviour=answer)}
    tracing(tmp_path, models, scenario, level="TENSORS")
    shown = [
        (item["activity"], *tensor.values())
        for item in objects(tmp_path / "t")
        if isinstance(tensor := item.get("tensor"), dict)
    ]
    assert shown == [
        ("TENSOR_QUEUE_INPUT", "INPUT", "0,0", "2,1", "FP32"),
        ("TENSOR_BACKEND_OUTPUT", "WORDS", '"a\\"b","\\\\xff"', "2", "BYTES"),
        ("TENSOR_BACKEND_OUTPUT", "TRUTHS", "1,0", "2,1", "BOOL"),
        ("TENSOR_BACKEND_OUTPUT", "HALVES", "1.5,-2", "2", "BF16"),
        ("TENSOR_BACKEND_OUTPUT", "NUMBERS", "0.1,2", "2", "FP32"),
        ("TENSOR_BACKEND_OUTPUT", "LIE", "", "3", "FP32"),
        ("TENSOR_BACKEND_INPUT", "INPUT", "0,0", "2,1", "FP32"),
    ]
    assert not times(tmp_path / "t")


def test_tensors_beyond_the_budget_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(world: World) -> None:
        world.core.calls.tracing.budget.left = 8
        await world.infer("m", dims=(3,))
        await world.infer("m")
        await world.infer("m")

    tracing(tmp_path, {"m": model()}, scenario, level="TENSORS")
    tensors = [item["id"] for item in objects(tmp_path / "t") if "tensor" in item]
    assert tensors == [2, 2]
    left_out = [record.args for record in caplog.records if "left out" in record.message]
    assert left_out == [(3,), (4,)]


# --- files ---------------------------------------------------------------------------------------


async def _infer(world: World, count: int) -> None:
    for number in range(count):
        await world.infer("m", id=str(number))


def ids(file: Path) -> list[object]:
    return [head["request_id"] for head in heads(file)]


def test_50_a_count_is_written_when_it_is_used_up(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await _infer(world, 10)
        assert world.core.calls.tracing.body("")["trace_count"] == "0"
        assert not world.core.calls.tracing.is_active
        await trio.sleep(1.0)
        assert ids(tmp_path / "t.0") == ["1", "3", "5"]

    tracing(tmp_path, {"m": model()}, scenario, "rate=2", "count=3")
    assert [file.name for file in tmp_path.iterdir()] == ["t.0"]


def test_log_frequency_makes_a_file_of_so_many_traces(tmp_path: Path) -> None:
    tracing(tmp_path, {"m": model()}, lambda world: _infer(world, 5), "triton,log-frequency=2")
    found = {file.name: ids(file) for file in sorted(tmp_path.iterdir())}
    assert found == {"t.0": ["0", "1"], "t.1": ["2", "3"], "t.2": ["4"]}


def test_a_change_writes_what_there_is_and_the_end_the_rest(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await _infer(world, 2)
        world.core.control_plane.update_trace_settings("", TraceUpdate(rate=2))
        await trio.sleep(1.0)
        assert ids(tmp_path / "t") == ["0", "1"]
        await _infer(world, 4)

    tracing(tmp_path, {"m": model()}, scenario)
    assert ids(tmp_path / "t") == ["0", "1", "1", "3"]


def test_a_trace_that_is_under_way_goes_with_the_setting_it_began_with(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: world.infer("m", id="early"))
            await trio.sleep(0.25)
            world.core.control_plane.update_trace_settings("", TraceUpdate(level=()))
            await world.infer("m", id="late")
        assert ids(tmp_path / "t") == ["early"]

    tracing(tmp_path, {"m": model(1.0)}, scenario)


def test_tracing_is_switched_on_for_one_model(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.infer("m", id="before")
        control = world.core.control_plane
        control.update_trace_settings("m", TraceUpdate(level=("TIMESTAMPS",)))
        await world.infer("m", id="traced")
        await world.infer("other", id="untraced")

    tracing(tmp_path, {"m": model(), "other": model()}, scenario, level="OFF")
    assert ids(tmp_path / "t") == ["traced"]


def test_a_file_that_cannot_be_written_costs_its_traces_only(tmp_path: Path) -> None:
    flags = (f"triton,file={tmp_path / 'missing' / 't'}", "level=TIMESTAMPS", "rate=1", "count=2")
    options = ServerOptions(model_repository=("simulated",), trace_config=flags)
    expected = [f"2 traces are lost, file '{tmp_path / 'missing' / 't'}.0' cannot be written"]
    world = World({"m": model()}, options=options, expected_errors=expected)
    world.run(lambda world: _infer(world, 3))


def test_traces_that_the_tracer_cannot_take_are_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.traces.wiring.TRACES_DOOR", 2)

    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(_ask, world, str(number))

    async def _ask(world: World, name: str) -> None:
        await world.infer("m", id=name)

    config = PLAIN + " dynamic_batching { preferred_batch_size: [ 5 ] }"
    tracing(tmp_path, {"m": model(0.5, config)}, scenario, "count=5")
    assert len(ids(tmp_path / "t.0")) == 2
    assert "3 traces were dropped" in caplog.text


def test_without_a_file_nothing_is_traced_and_the_operator_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = ServerOptions(model_repository=("simulated",), trace_config=("level=TIMESTAMPS",))

    async def scenario(world: World) -> None:
        assert not world.core.calls.tracing.is_active
        await world.infer("m")

    World({"m": model()}, options=options).run(scenario)
    assert "nothing is traced: trace file name is not given" in caplog.text
