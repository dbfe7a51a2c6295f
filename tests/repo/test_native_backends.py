"""The backends without a model file: identity, repeat and square, and how a backend is found."""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest

from protocol.inference import InferRequest, InferResponse, Tensor
from protocol.status import ServerError, StatusCode
from repo.backends import registry
from repo.backends.base import Backend, ExecuteRequest, InstanceContext, Outcome, Timings
from repo.backends.decoupled import ResponseThreads
from repo.backends.identity import PARAMETERS, IdentityBackend
from repo.backends.reshaping import ReshapingBackend
from repo.instance_groups import NO_GPU, PreferredGroup
from repo.model_config import is_decoupled
from repo.pbtxt import parse_config


class Sent:
    """A sender whose responses are kept."""

    def __init__(self, cancelled_after: int = 1000) -> None:
        self._responses: queue.SimpleQueue[tuple[Outcome | None, bool]] = queue.SimpleQueue()
        self._room = cancelled_after

    def send(self, outcome: Outcome | None, *, final: bool) -> None:
        self._responses.put((outcome, final))
        self._room -= 1

    def is_cancelled(self) -> bool:
        return self._room <= 0

    def all(self) -> list[Outcome | None]:
        """Every response up to the final one; waits for it."""
        found: list[Outcome | None] = []
        while True:
            outcome, final = self._responses.get(timeout=10)
            found.append(outcome)
            if final:
                return found


def _context(text: str, instance: str = "m_0") -> InstanceContext:
    return InstanceContext(
        config=parse_config(f'name: "m" {text}', "x"),
        version=3,
        model_directory=Path("/models/m"),
        instance_name=instance,
        kind="CPU",
    )


def _loaded(text: str, instance: str = "m_0") -> Backend:
    backend = registry.create_backend(_context(text, instance))
    backend.load()
    return backend


def _request(
    *tensors: Tensor, sender: Sent | None = None, batch_size: int = 0, wanted: tuple[str, ...] = ()
) -> ExecuteRequest:
    request = InferRequest("m", id="7", inputs=list(tensors), requested_outputs=wanted)
    return ExecuteRequest(request, batch_size, sender or Sent())


def _tensor(name: str, values: Sequence[object], dtype: type) -> Tensor:
    return Tensor.from_array(name, np.array(values, dtype))


def _response(outcome: Outcome | None) -> InferResponse:
    assert isinstance(outcome, InferResponse), outcome
    return outcome


def _outputs(outcome: Outcome | None) -> dict[str, list[object]]:
    return {one.name: one.array.tolist() for one in _response(outcome).outputs}


# Identity.


def _io(index: int, data_type: str = "TYPE_FP32", dims: str = "-1", extra: str = "") -> str:
    tensor = f"data_type: {data_type} dims: [ {dims} ]"
    return (
        f'input {{ name: "INPUT{index}" {tensor} {extra} }} '
        f'output {{ name: "OUTPUT{index}" {tensor} }} '
    )


IDENTITY = 'backend: "identity" '


def test_identity_gives_back_what_it_got() -> None:
    backend = _loaded(IDENTITY + _io(1) + _io(0, "TYPE_STRING"))
    strings = Tensor("INPUT0", "BYTES", (1,), raw=b"\1\0\0\0a")
    timings = Timings()

    (outcome,) = backend.execute(
        [_request(_tensor("INPUT1", [1, 2], np.float32), strings)], timings
    )

    response = _response(outcome)
    assert _outputs(outcome) == {"OUTPUT1": [1, 2], "OUTPUT0": [b"a"]}
    assert (response.model_name, response.model_version, response.id) == ("m", "3", "7")
    assert response.parameters == PARAMETERS
    assert response.outputs[1].raw is strings.raw
    assert timings.output_ns > 0
    backend.unload()


def test_identity_gives_only_what_was_asked_for() -> None:
    backend = _loaded(IDENTITY + _io(0) + _io(1, extra="optional: true"))
    one = _tensor("INPUT0", [1], np.float32)

    outcomes = backend.execute(
        [_request(one, wanted=("OUTPUT1",)), _request(one, wanted=("OUTPUT0",))], Timings()
    )

    assert [list(_outputs(outcome)) for outcome in outcomes] == [["OUTPUT1"], ["OUTPUT0"]]


@pytest.mark.parametrize(
    ("data_type", "expected"), [("TYPE_INT8", [[0, 0]] * 3), ("TYPE_STRING", [[b"", b""]] * 3)]
)
def test_identity_puts_zeros_for_an_absent_input(data_type: str, expected: list[object]) -> None:
    backend = _loaded(
        IDENTITY + "max_batch_size: 4 " + _io(0) + _io(1, data_type, "2, -1", "optional: true")
    )
    given = _tensor("INPUT0", [[1], [2], [3]], np.float32)

    (outcome,) = backend.execute([_request(given, batch_size=3)], Timings())

    assert _response(outcome).outputs[1].shape == (3, 2, 1)
    values = _outputs(outcome)["OUTPUT1"]
    assert np.squeeze(np.array(values, object), 2).tolist() == expected


def test_identity_pairs_other_names_by_place() -> None:
    backend = _loaded(
        IDENTITY + 'input { name: "x" data_type: TYPE_INT8 dims: 1 } '
        'output { name: "y" data_type: TYPE_INT8 dims: 1 }'
    )

    (outcome,) = backend.execute([_request(_tensor("x", [5], np.int8))], Timings())

    assert _outputs(outcome) == {"y": [5]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'input { name: "INPUT0" data_type: TYPE_INT8 dims: 1 }',
            "must have as many outputs as inputs, got 1 inputs and 0 outputs",
        ),
        (
            (
                'input { name: "INPUT0" data_type: TYPE_INT8 dims: 1 } '
                'output { name: "OUTPUT0" data_type: TYPE_INT8 dims: 2 }'
            ),
            "input 'INPUT0' and output 'OUTPUT0', got TYPE_INT8 [1] and TYPE_INT8 [2]",
        ),
        (
            'parameters { key: "execute_delay_ms" value { string_value: "soon" } }',
            "failed to convert 'soon' to integral number",
        ),
    ],
)
def test_identity_needs_pairs(text: str, message: str) -> None:
    with pytest.raises(ServerError) as failure:
        _loaded(IDENTITY + text)

    assert failure.value.status is StatusCode.INVALID_ARG
    assert message in failure.value.message


@pytest.mark.parametrize(
    ("instance", "expected"), [("m_0", [0.01]), ("m_0_3", [0.06]), ("odd", [0.01])]
)
def test_identity_delays_by_instance(
    instance: str, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("repo.backends.identity.sleep", slept.append)
    delays = (
        'parameters { key: "execute_delay_ms" value { string_value: "10" } } '
        'parameters { key: "instance_wise_delay_multiplier" value { string_value: "2" } } '
        'parameters { key: "creation_delay_sec" value { string_value: "1" } }'
    )
    backend = _loaded(IDENTITY + _io(0) + delays, instance)

    backend.execute([_request(_tensor("INPUT0", [1], np.float32))], Timings())

    assert slept == [1, *expected]


# Repeat.


def _repeat_request(sender: Sent, values: list[int], delays: list[int]) -> ExecuteRequest:
    return _request(
        _tensor("IN", values, np.int32),
        _tensor("DELAY", delays, np.uint32),
        _tensor("WAIT", [0], np.uint32),
        sender=sender,
    )


REPEAT = 'backend: "repeat" model_transaction_policy { decoupled: true } '


def test_repeat_sends_every_element_and_then_the_end() -> None:
    backend = _loaded(REPEAT)
    sender = Sent()

    assert backend.execute([_repeat_request(sender, [4, 2], [0, 1])], Timings()) == [None]

    *responses, end = sender.all()
    assert [_outputs(one) for one in responses] == [
        {"OUT": [4], "IDX": [0]},
        {"OUT": [2], "IDX": [1]},
    ]
    assert end is None
    backend.unload()


def test_repeat_stops_for_a_caller_who_left() -> None:
    backend = _loaded(REPEAT)
    sender = Sent(cancelled_after=1)

    backend.execute([_repeat_request(sender, [1, 2, 3], [0, 0, 0])], Timings())

    assert len(sender.all()) == 2
    backend.unload()


def test_repeat_returns_before_its_responses_do() -> None:
    backend = _loaded(REPEAT)
    sender = Sent()

    backend.execute([_repeat_request(sender, [1], [3_600_000])], Timings())
    backend.unload()  # hurries the hour up

    assert len(sender.all()) == 2


def test_repeat_refuses_unequal_lengths() -> None:
    (outcome,) = _loaded(REPEAT).execute([_repeat_request(Sent(), [1, 2], [0])], Timings())

    assert isinstance(outcome, ServerError)
    assert outcome.message == "expected IN and DELAY shape to match, got [2] and [1]"


# Square.


def _square(parameters: str = "", *, cancelled_after: int = 1000) -> list[Outcome | None]:
    backend = _loaded(
        f'backend: "square" model_transaction_policy {{ decoupled: true }} {parameters}'
    )
    sender = Sent(cancelled_after)
    request = _request(_tensor("IN", [3], np.int32), sender=sender)
    assert backend.execute([request], Timings()) == [None]
    found = sender.all()
    backend.unload()
    return found


def test_square_answers_as_often_as_it_is_told() -> None:
    *responses, end = _square()

    assert [_outputs(one) for one in responses] == [{"OUT": [3]}] * 3
    assert end is None


def test_square_fails_first_then_is_empty() -> None:
    fail, empty, full, end = _square(
        'parameters { key: "CUSTOM_FAIL_COUNT" value { string_value: "1" } } '
        'parameters { key: "CUSTOM_EMPTY_COUNT" value { string_value: "1" } } '
        'parameters { key: "CUSTOM_OUTPUT_DELAY_NS" value { string_value: "1" } }'
    )

    assert isinstance(fail, ServerError)
    assert (fail.status, fail.message) == (StatusCode.UNKNOWN, "simulated failure")
    assert not _response(empty).outputs
    assert _outputs(full) == {"OUT": [3]}
    assert end is None


def test_square_hears_that_its_caller_left() -> None:
    first, end = _square(cancelled_after=1)

    assert _outputs(first) == {"OUT": [3]}
    assert isinstance(end, ServerError)
    assert (end.status, end.message) == (StatusCode.CANCELLED, "cancelled")


@pytest.mark.parametrize("backend", ["repeat", "square"])
def test_decoupled_models_complete_themselves(backend: str) -> None:
    config = registry.auto_complete(_context(f'backend: "{backend}"'))

    assert is_decoupled(config)
    assert config.input[0].name == "IN"
    assert config.output[0].name == "OUT"

    with pytest.raises(ServerError, match=r"must set model_transaction_policy"):
        _loaded(f'backend: "{backend}"')


def test_a_thread_without_a_listener_ends_quietly(caplog: pytest.LogCaptureFixture) -> None:
    threads = ResponseThreads("m_0")

    def respond() -> None:
        raise RuntimeError("the server has ended")

    threads.start(respond)
    threads.stop()

    assert caplog.messages == ["instance 'm_0' could not send its responses"]


def test_unloading_before_loading_is_harmless() -> None:
    for name in ("repeat", "square"):
        registry.create_backend(_context(f'backend: "{name}"')).unload()


# The registry.


class InstalledBackend(IdentityBackend):
    """As a package would bring it."""


def _install(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    entry = EntryPoint("mine", f"{__name__}:{target}", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "entry_points", EntryPoints([entry]).select)
    monkeypatch.setattr(EntryPoint, "load", lambda self: globals()[self.attr])


def test_an_installed_backend_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, "InstalledBackend")

    assert isinstance(registry.create_backend(_context('backend: "mine"')), InstalledBackend)


def test_what_is_no_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, "Sent")

    with pytest.raises(ServerError, match=r"is no troupe\.backends\.Backend"):
        registry.create_backend(_context('backend: "mine"'))


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ServerError) as failure:
        registry.create_backend(_context('backend: "openvino"'))

    assert failure.value.status is StatusCode.INVALID_ARG
    assert failure.value.message == (
        "unable to find backend library for backend 'openvino', try specifying runtime on the "
        "model configuration."
    )


def test_a_backend_without_completion_changes_nothing() -> None:
    context = _context(IDENTITY + _io(0))

    assert bytes(registry.auto_complete(context)) == bytes(context.config)


def test_a_python_based_backend_is_a_file(tmp_path: Path) -> None:
    for name in ("vllm", "pytorch", "identity"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.py").write_text("")
    settings = {"backend-directory": str(tmp_path)}

    def module(text: str, settings: Mapping[str, str] = settings) -> Path | None:
        return registry.worker_module(parse_config(text, "x"), settings)

    assert module('backend: "vllm"') == tmp_path / "vllm"
    assert module('backend: "vllm"', {}) is None
    assert module('backend: "other"') is None
    assert module('backend: "../vllm"') is None
    assert module('backend: "python"') is None
    assert module('backend: "identity"') is None
    assert module('backend: "pytorch"') is None
    assert module('backend: "pytorch" runtime: "model.py"') == tmp_path / "pytorch"


def test_python_models_prefer_a_gpu() -> None:
    assert registry.preferred_groups(parse_config('backend: "python"', "x"), NO_GPU) == (
        PreferredGroup("GPU"),
    )
    assert registry.preferred_groups(parse_config('backend: "identity"', "x"), NO_GPU) == ()


# Reshaped outputs.


def test_reshaped_outputs_leave_in_the_configured_shape() -> None:
    reshaped = "data_type: TYPE_FP32 dims: [ 2, -1 ] reshape { shape: [ -1, 1, 2 ] }"
    backend = _loaded(
        f'{IDENTITY} max_batch_size: 4 input {{ name: "INPUT0" {reshaped} }} '
        f'output {{ name: "OUTPUT0" {reshaped} }}'
    )
    given = Tensor.from_array("INPUT0", np.arange(12, dtype=np.float32).reshape(2, 3, 1, 2))

    (outcome,) = backend.execute([_request(given, batch_size=2)], Timings())

    assert isinstance(backend, ReshapingBackend)
    (output,) = _response(outcome).outputs
    assert output.shape == (2, 2, 3)
    assert output.raw == given.raw
    backend.unload()


def test_a_sender_reshapes_too_and_leaves_other_shapes_alone() -> None:
    backend = _loaded(
        'backend: "square" max_batch_size: 4 model_transaction_policy { decoupled: true } '
        'output { name: "OUT" data_type: TYPE_INT32 dims: [ 1, 1 ] reshape { shape: 1 } } '
    )
    sender = Sent(cancelled_after=1)
    backend.execute(
        [_request(_tensor("IN", [[2]], np.int32), sender=sender, batch_size=1)], Timings()
    )

    first, end = sender.all()
    assert _response(first).outputs[0].shape == (1, 1, 1)
    assert isinstance(end, ServerError)
    backend.unload()


def test_an_output_of_another_shape_is_left_as_it_is() -> None:
    backend = _loaded(
        IDENTITY + 'input { name: "INPUT0" data_type: TYPE_INT8 dims: 1 } '
        'output { name: "OUTPUT0" data_type: TYPE_INT8 dims: 4 reshape { shape: 1 } }'
    )

    (outcome,) = backend.execute([_request(_tensor("INPUT0", [1, 2], np.int8))], Timings())

    assert _response(outcome).outputs[0].shape == (2,)
