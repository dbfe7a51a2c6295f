"""What a model asks of the server: other models, readiness, logs and metrics."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing

import actors.processes.worker
from actors.processes.child import MAX_LINE_BYTES
from actors.processes.ports import Labels, MetricKind, MetricOperation
from protocol.inference import InferRequest, InferResponse, SequenceFlag, Tensor
from protocol.status import ServerError, internal, not_found, unavailable
from repo.backends.base import Outcome
from tests.actors.process_rig import HEAD, model_spec, request, running

CALLING = (
    HEAD.replace("class TritonPythonModel:", "")
    + """
def call(array, model="other", decoupled=False, **more):
    request = pb_utils.InferenceRequest(
        inputs=[pb_utils.Tensor("IN", np.asarray(array))], requested_output_names=["OUT"],
        model_name=model, **more)
    return request.exec(decoupled=decoupled)

def text(response):
    if response.has_error():
        return f"{response.error().code()} {response.error().message()}"
    tensor = pb_utils.get_output_tensor_by_name(response, "OUT")
    return None if tensor is None else tensor.as_numpy().tolist()

class TritonPythonModel:
"""
)

# What Triton puts before the server's own words.
HERE = "Failed to process the request for model 'm_0_0', message: "


GONE = (
    "1 Model gone - Error when running inference: Failed for execute the inference request. Model "
    "'gone' is not ready."
)


class Models:
    """Other models: `other` doubles, `repeat` gives each element, `stuck` never ends."""

    def __init__(self) -> None:
        self.asked: list[InferRequest] = []
        self.closed: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.controlled: list[object] = []

    async def infer(
        self, request: InferRequest, *, decoupled: bool
    ) -> AsyncGenerator[tuple[Outcome | None, bool], None]:
        self.asked.append(request)
        name = request.model_name
        if name == "gone":
            raise unavailable(
                "Failed for execute the inference request. Model 'gone' is not ready."
            )
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            array = request.inputs[0].array
            await trio.sleep(0.001)
            if name == "other":
                yield self._response(array * 2), True
            elif name == "failing":
                yield not_found("its own error"), True
            elif name == "repeat":
                for element in array:
                    yield self._response(np.atleast_1d(element)), False
                yield None, True
            elif name == "stuck":
                yield self._response(array), False
                await trio.sleep_forever()
        finally:
            self.at_once -= 1
            self.closed.append(name)

    def _response(self, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> InferResponse:
        return InferResponse(
            "x", "1", outputs=[Tensor.from_array("OUT", array)], parameters={"p": 1}
        )

    async def load(self, model_name: str, config_json: str, files: Mapping[str, bytes]) -> None:
        self.controlled.append((model_name, config_json, dict(files)))
        if model_name == "broken":
            raise internal("no such thing")
        await trio.lowlevel.checkpoint()

    async def unload(self, model_name: str, *, unload_dependents: bool) -> None:
        self.controlled.append((model_name, unload_dependents))
        if model_name == "broken":
            raise internal("no such thing")
        await trio.lowlevel.checkpoint()

    async def is_ready(self, model_name: str, version: str) -> bool:
        await trio.lowlevel.checkpoint()
        if model_name == "broken":
            raise not_found("Request for unknown model: 'broken' is not found")
        return version == "2"


async def test_a_model_runs_other_models(tmp_path: Path) -> None:
    body = """
def initialize(self, args):
    attempt(call, [1])
def execute(self, requests):
    large = call(np.ones(100_000, np.float32))
    out = [text(call(value(r))) for r in requests]
    out.append(text(large)[-1])
    out.append(text(call([1], "gone")))
    out.append(text(call([1], "failing")))
    out.append(call([1], "other").parameters())
    call(np.array(["a"], object), "other", request_id="i", correlation_id=5, flags=3, timeout=9,
         model_version=4, parameters={"k": "v"})
    return [answer(np.array([repr(out)], object))]
"""
    models = Models()
    async with running(model_spec(tmp_path, body, head=CALLING), bls=models) as rig:
        (said,) = await rig.run(request([3]))
    expected = [
        [6],
        2.0,
        GONE,
        "2 its own error",
        '{"p": 1}',
    ]
    assert said == [repr(expected).encode()]
    assert rig.said() == [
        "TritonModelException: BLS is only supported during the 'execute' function."
    ]
    full = models.asked[-1]
    assert (full.id, full.correlation_id, full.sequence_flags) == ("i", 5, SequenceFlag(3))
    assert (full.timeout_us, full.model_version, full.parameters) == (9, "4", {"k": "v"})
    assert full.requested_outputs == ("OUT",)
    assert full.inputs[0].array.tolist() == [b"a"]
    assert models.asked[0].model_version == ""


async def test_decoupled_calls_are_iterators(tmp_path: Path) -> None:
    body = """
def execute(self, requests):
    responses = call(list(range(30)), "repeat", True)
    first = [text(r) for r in responses]
    again = [text(r) for r in responses]
    other = [text(r) for r in call([4], "other", True)]
    stuck = call([5], "stuck", True)
    begun = text(next(stuck))
    stuck.cancel()
    ended = text(next(stuck))
    call([6], "stuck", True)  # dropped at once
    failed = [text(r) for r in call([1], "gone", True)]
    return [answer(np.array([repr((first == again, first, other, begun, ended, failed))], object))]
"""
    models = Models()
    async with running(model_spec(tmp_path, body, head=CALLING, bls_limit=2), bls=models) as rig:
        (said,) = await rig.run(request([3]))
        with trio.fail_after(10):
            while models.at_once:  # noqa: ASYNC110  # the fake has no event
                await trio.sleep(0.002)
    first = [[n] for n in range(30)]
    assert said == [repr((True, [*first, None], [[8]], [5], "7 ", [GONE])).encode()]
    assert models.closed == ["repeat", "other", "stuck", "stuck"]


async def test_calls_run_at_once_up_to_a_limit(tmp_path: Path) -> None:
    body = """
    async def execute(self, requests):
        import asyncio
        calls = [
            pb_utils.InferenceRequest(
                inputs=[pb_utils.Tensor("IN", np.array([n]))], requested_output_names=[],
                model_name="other").async_exec()
            for n in range(12)
        ]
        responses = await asyncio.gather(*calls)
        values = [r.output_tensors()[0].as_numpy()[0] for r in responses]
        return [answer(np.array(values))]
    """
    models = Models()
    async with running(model_spec(tmp_path, body, bls_limit=4), bls=models) as rig:
        assert await rig.infer([0]) == [2 * n for n in range(12)]
    assert 1 < models.most_at_once <= 4


async def test_calls_end_with_their_worker(tmp_path: Path) -> None:
    body = """
def execute(self, requests):
    next(call([5], "stuck", True))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    models = Models()
    async with running(model_spec(tmp_path, body, head=CALLING), bls=models) as rig:
        (outcome,) = await rig.outcomes(request([1]))
        assert isinstance(outcome, ServerError)
        with trio.fail_after(10):
            while models.at_once:  # noqa: ASYNC110  # the fake has no event
                await trio.sleep(0.002)


async def test_models_are_loaded_and_unloaded(tmp_path: Path) -> None:
    body = """
    def initialize(self, args):
        attempt(pb_utils.load_model, "a")
        attempt(pb_utils.load_model, "b", config="{}", files={"file:1/x": b"content"})
        attempt(pb_utils.load_model, model_name="broken")
        attempt(pb_utils.unload_model, "a", unload_dependents=True)
        attempt(pb_utils.unload_model, "broken")
        attempt(pb_utils.is_model_ready, "a")
        attempt(pb_utils.is_model_ready, "a", model_version="2")
        attempt(pb_utils.is_model_ready, "broken")
        attempt(pb_utils.load_model, 5)
    """
    models = Models()
    async with running(model_spec(tmp_path, body), bls=models) as rig:
        pass
    assert models.controlled == [
        ("a", "", {}),
        ("b", "{}", {"file:1/x": b"content"}),
        ("broken", "", {}),
        ("a", True),
        ("broken", False),
    ]
    assert rig.said() == [
        "result None",
        "result None",
        f"TritonModelException: Failed to load model: {HERE}no such thing",
        "result None",
        f"TritonModelException: Failed to unload model: {HERE}no such thing",
        "result False",
        "result True",
        (
            f"TritonModelException: Failed to check model readiness: {HERE}Request for unknown "
            "model: 'broken' is not found"
        ),
        "TypeError: model_name must be str, not int",
    ]


# --- readiness and logs --------------------------------------------------------------------------


async def test_a_model_says_whether_it_is_ready(tmp_path: Path) -> None:
    body = """
    answers = [True, False, 1, "raise", "async", True]
    def is_ready(self):
        what = self.answers.pop(0)
        if what == "raise":
            raise ValueError("unwell")
        return self.later() if what == "async" else what
    async def later(self):
        return True
    def execute(self, requests):
        return [answer([1])]
    """
    async with running(model_spec(tmp_path, body)) as rig:
        said = [await rig.executor.is_ready() for _ in range(5)]
        assert await rig.infer([1]) == [1]
        assert await rig.executor.is_ready()
    assert said == [True, False, False, False, True]
    errors = [line for level, line in rig.lines if level == "ERROR"]
    assert errors[0] == "is_ready() must return a boolean value"
    assert errors[1].startswith("ValueError: unwell\n\nAt:\n")


async def test_readiness_is_asked_while_a_batch_runs_and_once_for_all(tmp_path: Path) -> None:
    body = """
    asked = 0
    def is_ready(self):
        type(self).asked += 1
        while not os.path.exists(os.path.join(pb_utils.get_model_dir(), "go")):
            time.sleep(0.001)
        return True
    def execute(self, requests):
        while not os.path.exists(os.path.join(pb_utils.get_model_dir(), "go")):
            time.sleep(0.001)
        return [answer([self.asked])]
    """
    said: list[bool] = []
    answers: list[object] = []
    async with running(model_spec(tmp_path, body)) as rig:

        async def ask() -> None:
            said.append(await rig.executor.is_ready())

        async def infer() -> None:
            answers.append(await rig.infer([1]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(infer)
            for _ in range(3):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.05)
            (tmp_path / "m" / "1" / "go").touch()
    assert said == [True, True, True]
    assert answers == [[1]]


async def test_a_model_that_takes_too_long_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = """
    def is_ready(self):
        time.sleep(60)
    """
    async with running(model_spec(tmp_path, body), grace_seconds=0.1) as rig:
        assert actors.processes.worker.READY_SECONDS == 5.0
        monkeypatch.setattr(actors.processes.worker, "READY_SECONDS", 0.02)
        assert not await rig.executor.is_ready()
        assert not await rig.executor.is_ready()


async def test_log_lines_have_their_level(tmp_path: Path) -> None:
    body = """
    def initialize(self, args):
        logger = pb_utils.Logger
        logger.log_info("i")
        logger.log_warn("w")
        logger.log_error("e")
        logger.log_verbose("v")
        logger.log("plain")
        logger.log("given", logger.ERROR)
        for wrong in ((5,), ("x", "INFO")):
            try:
                logger.log(*wrong)
            except TypeError as error:
                logger.log_info(str(error))
    """
    async with running(model_spec(tmp_path, body)) as rig:
        pass
    assert rig.lines == [
        ("INFO", "i"),
        ("WARNING", "w"),
        ("ERROR", "e"),
        ("VERBOSE", "v"),
        ("INFO", "plain"),
        ("ERROR", "given"),
        ("INFO", "message must be str, not int"),
        ("INFO", "level must be LogLevel, not str"),
    ]


async def test_output_becomes_lines_of_bounded_length(tmp_path: Path) -> None:
    body = """
    def initialize(self, args):
        print("first")
        print("a" * 200_000)
        print("b\\xffc".encode("latin-1"))
        sys.stdout.buffer.write(b"d\\xffe\\n")
    def finalize(self):
        sys.stdout.write("no newline")
    """
    async with running(model_spec(tmp_path, body)) as rig:
        pass
    first, *long, text, replaced, last = rig.said()
    assert (first, text, replaced, last) == ("first", "b'b\\xffc'", "d\ufffde", "no newline")
    assert "".join(long) == "a" * 200_000
    assert max(map(len, long)) <= 2 * MAX_LINE_BYTES


# --- metrics -------------------------------------------------------------------------------------


class Metrics:
    """The server's custom metrics, as far as a worker can tell."""

    def __init__(self) -> None:
        self.families: dict[str, tuple[str, MetricKind]] = {}
        self.opened: list[tuple[str, Labels]] = []
        self.buckets: list[Sequence[float]] = []
        self.values: dict[tuple[str, str], float] = {}
        self.observed: list[float] = []

    def open_family(self, name: str, description: str, kind: MetricKind) -> None:
        if self.families.get(name, (description, kind))[1] != kind:
            raise internal("another kind")
        self.families[name] = (description, kind)

    def close_family(self, name: str) -> None:
        del self.families[name]

    def open_metric(self, family: str, labels: Labels, buckets: Sequence[float]) -> None:
        self.opened.append((family, labels))
        self.buckets.append(buckets)

    def close_metric(self, family: str, labels: Labels) -> None:
        self.opened.remove((family, labels))

    def update(self, family: str, labels: Labels, operation: MetricOperation, value: float) -> None:
        key = (family, str(labels))
        if operation == "observe":
            self.observed.append(value)
        else:
            before = self.values.get(key, 0.0) if operation == "increment" else 0.0
            self.values[key] = before + value

    def value(self, family: str, labels: Labels) -> float:
        return self.values[family, str(labels)]


async def test_metrics_live_in_the_server(tmp_path: Path) -> None:
    body = """
    def initialize(self, args):
        F = pb_utils.MetricFamily
        self.counter = F("c", "counts", F.COUNTER)
        self.gauge = F(name="g", description="gauges", kind=F.GAUGE)
        self.histogram = F("h", "observes", F.HISTOGRAM)
        attempt(F, "c", "again", F.GAUGE)
        self.c = self.counter.Metric(labels={"a": "b"})
        self.g = self.gauge.Metric()
        self.h = self.histogram.Metric(labels={}, buckets=[0.1, 1, 10])
        self.c.increment(2); self.c.increment(0.5)
        self.g.set(9); self.g.increment(-4)
        self.h.observe(3)
        attempt(self.c.value); attempt(self.g.value)
        attempt(self.c.increment, -1); attempt(self.c.set, 1); attempt(self.c.observe, 1)
        attempt(self.h.increment, 1); attempt(self.h.set, 1); attempt(self.h.value)
        attempt(self.g.observe, 1)
        attempt(self.counter.Metric, labels=5)
        attempt(self.histogram.Metric)
        attempt(self.histogram.Metric, buckets=(1, 2))
        attempt(self.counter.Metric, buckets=[1])
        other = self.gauge.Metric(labels={"gone": "soon"})
        del other
        del self.gauge
        attempt(self.g.set, 1)
        attempt(self.c.value)
    """
    metrics = Metrics()
    async with running(model_spec(tmp_path, body), metrics=metrics) as rig:
        assert metrics.families == {"c": ("counts", "counter"), "h": ("observes", "histogram")}
        assert metrics.opened == [("c", {"a": "b"}), ("g", {}), ("h", {})]
        assert metrics.buckets[2] == [0.1, 1.0, 10.0]
        assert metrics.observed == [3.0]
    failed = "TritonModelException: Failed to "
    kind = "TRITONSERVER_METRIC_KIND_"
    assert rig.said() == [
        f"TritonModelException: Error when creating MetricFamily: {HERE}another kind",
        "result 2.5",
        "result 5.0",
        (
            f"{failed}increment metric value: {HERE}{kind}COUNTER can only be incremented "
            "monotonically by non-negative values."
        ),
        f"{failed}set metric value: {HERE}{kind}COUNTER does not support Set",
        f"{failed}observe metric value: {HERE}{kind}COUNTER does not support Observe",
        f"{failed}increment metric value: {HERE}{kind}HISTOGRAM does not support Increment",
        f"{failed}set metric value: {HERE}{kind}HISTOGRAM does not support Set",
        f"{failed}get metric value: {HERE}{kind}HISTOGRAM does not support Value",
        f"{failed}observe metric value: {HERE}{kind}GAUGE does not support Observe",
        f"{failed}create metric. Labels must be a dictionary.",
        f"{failed}create metric. Missing required buckets.",
        f"{failed}create metric. Buckets must be a list.",
        f"{failed}create metric. Unexpected buckets found.",
        (
            f"{failed}set metric value: Invalid metric operation as the corresponding "
            "'MetricFamily' has been deleted. The 'MetricFamily' object should be deleted AFTER "
            "its corresponding 'Metric' objects have been deleted."
        ),
        "result 2.5",
    ]
    # What a worker leaves open is closed for it.
    assert not metrics.families
    assert not metrics.opened
