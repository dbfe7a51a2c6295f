"""Traces as spans, in virtual time: how they nest, what they say, and when they are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import trio

from actors.settings.options import ServerOptions
from actors.traces.ports import TracePorts
from protocol.trace_spans import Span
from repo.backends.base import ExecuteRequest, Outcome
from simulation.executor import echo
from simulation.world import Scenario, SimulatedModel, World
from tests.actors.grpc_rig import GrpcWorld, model
from tests.actors.grpc_rig import infer as grpc_infer
from tests.actors.http_rig import HttpWorld, infer
from tests.simulation.ensemble_worlds import CHAIN, asking, member
from tests.simulation.rig import model_config

CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CLIENT_TRACE = 0x0AF7651916CD43DD8448EB211C80319C


class Collector:
    """A collector in the process, which notes when spans came, and may refuse them."""

    def __init__(self) -> None:
        self.settings: Mapping[str, str] = {}
        self.batches: list[tuple[float, Sequence[Span]]] = []
        self.refuses = False
        self.closed = False

    def make(self, settings: Mapping[str, str]) -> Collector:
        self.settings = settings
        return self

    def export(self, spans: Sequence[Span], offset_ns: int) -> None:
        assert offset_ns == 0, "a simulation's clocks are one"
        if self.refuses:
            raise OSError("refused")
        self.batches.append((trio.current_time(), spans))

    def close(self) -> None:
        self.closed = True

    @property
    def spans(self) -> list[Span]:
        return [span for _, batch in self.batches for span in batch]

    def tree(self) -> list[tuple[str, str]]:
        """Every span with its parent, by name; "" is none of them."""
        names = {span.span_id: span.name for span in self.spans}
        return [(span.name, names.get(span.parent_id, "")) for span in self.spans]


def options(*settings: str, level: str = "TIMESTAMPS") -> ServerOptions:
    flags = ("mode=opentelemetry", f"level={level}", "rate=1", *settings)
    return ServerOptions(model_repository=("simulated",), trace_config=flags)


def run(
    models: Mapping[str, SimulatedModel],
    scenario: Scenario,
    *settings: str,
    expected_errors: Sequence[str] = (),
    collector: Collector | None = None,
) -> Collector:
    collector = collector or Collector()
    World(
        models,
        options=options(*settings),
        expected_errors=expected_errors,
        tracing=TracePorts(make_exporter=collector.make),
    ).run(scenario)
    assert collector.closed
    return collector


def plain(latency: float = 0.0) -> SimulatedModel:
    return SimulatedModel(model_config(None), latency=lambda _: latency)


async def once(world: World) -> None:
    await world.infer("m", id="q")


def test_a_request_is_three_spans(tmp_path: Path) -> None:
    root, request, compute = run({"m": plain(0.5)}, once).spans
    assert (root.name, root.parent_id, root.events) == ("InferRequest", 0, [])
    assert (root.start_at, root.end_at) == (0.0, 0.5)
    assert (request.name, request.parent_id) == ("m", root.span_id)
    assert request.attributes == {
        "triton.model_name": "m",
        "triton.model_version": 1,
        "triton.trace_id": 1,
        "triton.trace_parent_id": 0,
        "triton.request_id": "q",
    }
    assert request.events == [("REQUEST_START", 0.0), ("QUEUE_START", 0.0), ("REQUEST_END", 0.5)]
    assert (compute.name, compute.parent_id) == ("compute", request.span_id)
    assert compute.events == [
        ("COMPUTE_START", 0.0),
        ("COMPUTE_INPUT_END", 0.0),
        ("COMPUTE_OUTPUT_START", 0.5),
        ("COMPUTE_END", 0.5),
    ]
    assert len({span.trace_id for span in (root, request, compute)}) == 1
    assert not list(tmp_path.iterdir())


def test_members_nest_in_their_ensemble() -> None:
    async def scenario(world: World) -> None:
        await world.ask(asking("e"))

    collector = run({"e": SimulatedModel(CHAIN), "a": member(0.25), "b": member(0.5)}, scenario)
    assert collector.tree() == [
        ("InferRequest", ""),
        ("e", "InferRequest"),
        ("a", "e"),
        ("compute", "a"),
        ("b", "e"),
        ("compute", "b"),
    ]


def test_a_model_s_own_activities_are_spans_and_events() -> None:
    def reporting(request: ExecuteRequest) -> Outcome:
        trace = request.request.trace
        assert trace is not None
        for name in ("OWN_START", "SINGLE", "OWN_END"):
            trace.report(name)
        return echo(request)

    models = {
        "m": SimulatedModel(model_config(None), latency=lambda _: 0.5, behaviour=reporting),
    }
    collector = run(models, once)
    assert collector.tree()[2:] == [("compute", "m"), ("OWN", "compute")]
    request, own = collector.spans[1], collector.spans[3]
    assert own.events == [("OWN_START", 0.5), ("OWN_END", 0.5)]
    assert ("SINGLE", 0.5) in request.events


# --- when ----------------------------------------------------------------------------------------


def test_spans_are_sent_after_the_delay_in_batches_and_at_the_end() -> None:
    async def scenario(world: World) -> None:
        await once(world)
        await trio.sleep(0.5)
        await once(world)
        await trio.sleep(10.0)
        await once(world)

    bsp = ("bsp_schedule_delay=2000", "bsp_max_export_batch_size=4")
    collector = run({"m": plain()}, scenario, *(f"opentelemetry,{one}" for one in bsp))
    assert [(at, len(batch)) for at, batch in collector.batches] == [
        (0.5, 4), (2.5, 2), (10.5, 3),
    ]  # fmt: skip
    assert collector.settings == {
        "url": "http://localhost:4318/v1/traces",
        "bsp_max_queue_size": "2048",
        "bsp_schedule_delay": "2000",
        "bsp_max_export_batch_size": "4",
    }


def test_what_the_collector_does_not_take_is_lost_and_nothing_else() -> None:
    async def scenario(world: World) -> None:
        collector.refuses = True
        await once(world)
        await trio.sleep(6.0)
        collector.refuses = False
        await once(world)

    collector = Collector()
    run(
        {"m": plain()}, scenario, expected_errors=["3 spans are lost: refused"], collector=collector
    )
    assert len(collector.spans) == 3


def test_spans_beyond_the_queue_are_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(once, world)
        await trio.sleep(6.0)

    config = model_config(None) + " dynamic_batching { preferred_batch_size: [ 4 ] }"
    models = {"m": SimulatedModel(config)}
    sizes = ("opentelemetry,bsp_max_queue_size=10", "opentelemetry,bsp_max_export_batch_size=10")
    collector = run(models, scenario, *sizes)
    assert len(collector.spans) == 10
    assert "2 spans were dropped, because the queue was full" in caplog.text


# --- whose trace it is ---------------------------------------------------------------------------


def test_52_a_client_s_trace_is_taken_up_and_no_other_at_rate_zero() -> None:
    collector = Collector()
    ports = TracePorts(make_exporter=collector.make)

    async def over_http(world: HttpWorld) -> None:
        async with world.connect() as client:
            for lines in (
                (),
                (f"traceparent: {CLIENT}", "tracestate: vendor=1"),
                ("traceparent: x",),
            ):
                await client.send(infer("m", 1.0, lines=lines))
                assert (await client.response()).status == 200

    world = HttpWorld({"m": model()}, options=options("rate=0"), tracing=ports)
    world.run_bounded(over_http)
    assert collector.tree() == [("InferRequest", ""), ("m", "InferRequest"), ("compute", "m")]
    root = collector.spans[0]
    assert {span.trace_id for span in collector.spans} == {CLIENT_TRACE}
    assert {span.state for span in collector.spans} == {"vendor=1"}
    assert (root.parent_id, root.is_remote) == (0xB7AD6B7169203331, True)
    assert [name for name, _ in root.events] == [
        "HTTP_RECV_START",
        "HTTP_RECV_END",
        "INFER_RESPONSE_COMPLETE",
        "HTTP_SEND_START",
        "HTTP_SEND_END",
    ]


def test_grpc_metadata_name_a_trace_too() -> None:
    collector = Collector()

    async def over_grpc(world: World) -> None:
        assert isinstance(world, GrpcWorld)
        async with world.connect() as client:
            await (await client.unary(grpc_infer(), ("traceparent", CLIENT))).answer()
            call = await client.open("/inference.GRPCInferenceService/ModelStreamInfer",
                                     ("traceparent", CLIENT))  # fmt: skip
            await call.send(grpc_infer(id="s"), end=True)
            await call.over()
            await (await client.unary(grpc_infer())).answer()

    ports = TracePorts(make_exporter=collector.make)
    GrpcWorld({"m": model()}, options=options("rate=0"), tracing=ports).run(over_grpc)
    assert [span.trace_id for span in collector.spans] == [CLIENT_TRACE] * 6


def test_a_call_that_is_reset_has_only_its_coming_on_the_root() -> None:
    collector = Collector()

    async def over_grpc(world: World) -> None:
        assert isinstance(world, GrpcWorld)
        async with world.connect() as client:
            call = await client.unary(grpc_infer())
            await trio.sleep(0.25)
            await call.reset()
            await trio.sleep(2.0)

    ports = TracePorts(make_exporter=collector.make)
    models = {"m": model(seconds=1.0)}
    GrpcWorld(models, options=options(), tracing=ports).run(over_grpc)
    names = [name for name, _ in collector.spans[0].events]
    assert names == ["GRPC_WAITREAD_START", "GRPC_WAITREAD_END"]


def test_settings_show_the_exporter_s(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(world: World) -> None:
        body = world.core.calls.tracing.body("")
        assert body == {
            "trace_level": ["TIMESTAMPS", "TENSORS"],
            "trace_rate": "1",
            "trace_count": "-1",
            "url": "http://there/v1",
            "bsp_max_queue_size": "2048",
            "bsp_schedule_delay": "5000",
            "bsp_max_export_batch_size": "512",
            "resource": "service.name=mine,a=b",
            "trace_mode": "opentelemetry",
        }
        await once(world)

    more = ("url=http://there/v1", "resource=service.name=mine", "resource=a=b")
    collector = run(
        {"m": plain()}, scenario, "level=TENSORS", *(f"opentelemetry,{one}" for one in more)
    )
    assert len(collector.spans) == 3
    assert "tensors are not traced in mode opentelemetry" in caplog.text
