"""ModelStreamInfer, cancellation and deadlines over the wire, by the clients that people have."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcaio
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.conformance import grpc_models

PATIENCE = 20.0  # seconds after which a test has failed


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notes")


@pytest.fixture(scope="module")
def server(
    notes: Path, tmp_path_factory: pytest.TempPathFactory, run_server: Callable[..., Any]
) -> Iterator[Any]:
    repository = tmp_path_factory.mktemp("streams")
    grpc_models.write_repeat(repository)
    grpc_models.write_patient(repository, notes)
    grpc_models.link_sample(repository, "simple")
    with run_server(repository) as running:
        yield running


def tensor(name: str, array: np.ndarray[Any, Any], datatype: str) -> Any:
    given = grpcclient.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array)
    return given


def repeat(values: list[int], delay_ms: int = 0) -> list[Any]:
    delays = np.full(len(values), delay_ms, np.uint32)
    return [
        tensor("IN", np.array(values, np.int32), "INT32"),
        tensor("DELAY", delays, "UINT32"),
        tensor("WAIT", np.array([0], np.uint32), "UINT32"),
    ]


def simple(value: int) -> list[Any]:
    array = np.full((1, 16), value, np.int32)
    return [tensor("INPUT0", array, "INT32"), tensor("INPUT1", array, "INT32")]


def one(value: float) -> list[Any]:
    return [tensor("IN", np.array([value], np.float32), "FP32")]


class Stream:
    """A tritonclient stream whose answers can be taken one by one."""

    def __init__(self, server: Any, **how: Any) -> None:
        self.answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.client = grpcclient.InferenceServerClient(server.grpc)
        self.client.start_stream(lambda result, error: self.answers.put((result, error)), **how)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def ask(self, model: str, inputs: list[Any], **how: Any) -> None:
        self.client.async_stream_infer(model, inputs, **how)

    def take(self) -> Any:
        result, error = self.answers.get(timeout=PATIENCE)
        if error is not None:
            raise error
        return result.get_response()

    def rest(self) -> list[Any]:
        """Half-close, and everything that comes before the end."""
        self.client.stop_stream()
        return list(self.answers.queue)


def final(response: Any) -> bool:
    return bool(response.parameters["triton_final_response"].bool_param)


def test_a_repeat_model_streams_its_elements(server: Any) -> None:
    with Stream(server) as stream:
        stream.ask("rep", repeat([4, 5, 6]), request_id="r", enable_empty_final_response=True)
        responses = [stream.take() for _ in range(4)]

    assert [final(each) for each in responses] == [False, False, False, True]
    assert {each.id for each in responses} == {"r"}
    values = [np.frombuffer(each.raw_output_contents[0], np.int32)[0] for each in responses[:3]]
    assert values == [4, 5, 6]
    assert not responses[3].outputs


def test_a_decoupled_python_model_streams_too(server: Any) -> None:
    with Stream(server) as stream:
        many = np.arange(100, dtype=np.float32)
        stream.ask("py_rep", [tensor("IN", many, "FP32")], request_id="many")
        values = [np.frombuffer(stream.take().raw_output_contents[0], np.float32)[0] for _ in many]
        assert values == list(many)

        wrong = np.array([1, -1, 2], np.float32)
        stream.ask(
            "py_rep",
            [tensor("IN", wrong, "FP32")],
            request_id="wrong",
            enable_empty_final_response=True,
        )
        assert stream.take().id == "wrong"
        with pytest.raises(InferenceServerException, match="no such element"):
            stream.take()
        assert not final(stream.take())
        assert final(stream.take())


def test_many_requests_to_several_models_on_one_stream(server: Any) -> None:
    with Stream(server) as stream:
        for number in range(200):
            stream.ask("simple", simple(number), request_id=str(number))
            if number % 20 == 0:
                stream.ask("rep", repeat([number, number]), request_id=f"r{number}")
        stream.client.stop_stream()
        responses = [result.get_response() for result, _ in stream.answers.queue]

    ordered = [each for each in responses if not each.id.startswith("r")]
    assert [each.id for each in ordered] == [str(number) for number in range(200)]
    assert all(final(each) for each in ordered)
    for number, each in enumerate(ordered):
        assert np.frombuffer(each.raw_output_contents[0], np.int32)[0] == 2 * number
    assert len(responses) == 220


def test_a_mistake_in_the_middle_is_answered_in_the_middle(server: Any) -> None:
    bad = [tensor(name, np.zeros((1, 15), np.int32), "INT32") for name in ("INPUT0", "INPUT1")]
    with Stream(server) as stream:
        stream.ask("simple", simple(1), request_id="a")
        stream.ask("simple", bad, request_id="b")
        stream.ask("nope", simple(1), request_id="c")
        stream.ask("simple", simple(2), request_id="d")
        answers = stream.rest()

    assert [None if error else result.get_response().id for result, error in answers] == [
        "a", None, None, "d",
    ]  # fmt: skip
    assert "unexpected shape for input 'INPUT0' for model 'simple'" in answers[1][1].message()
    assert answers[2][1].message() == "Request for unknown model: 'nope' is not found"


def test_errors_can_be_made_to_end_the_stream(server: Any) -> None:
    negative = [tensor("IN", np.array([-1], np.float32), "FP32")]
    with Stream(server, headers={"triton_grpc_error": "true"}) as stream:
        stream.ask("py_rep", negative, request_id="a")
        with pytest.raises(InferenceServerException) as caught:
            stream.take()
    assert caught.value.status() == "StatusCode.INTERNAL"
    assert "no such element" in caught.value.message()


def ignore(result: object, error: object) -> None:
    """Nobody waits for this answer."""


def awaited(notes: Path, word: str) -> None:
    """Wait until the patient model has noted this."""
    until = time.monotonic() + PATIENCE
    while not (notes / word).exists():
        assert time.monotonic() < until, f"the model never noted {word!r}: {list(notes.iterdir())}"
        time.sleep(0.005)  # the model is another process; there is nothing to wait for but a file


def test_a_cancelled_stream_reaches_the_model(server: Any, notes: Path) -> None:
    with Stream(server) as stream, Stream(server) as other:
        stream.ask("patient", one(PATIENCE), request_id="mine")
        awaited(notes, "began mine")
        other.ask("rep", repeat([1, 2], 10), request_id="other")
        stream.client.stop_stream(cancel_requests=True)
        awaited(notes, "cancelled mine")
        assert len(other.rest()) == 2


def test_a_cancelled_unary_call_reaches_the_model(server: Any, notes: Path) -> None:
    outcome: queue.Queue[Any] = queue.Queue()
    with grpcclient.InferenceServerClient(server.grpc) as client:
        call = client.async_infer(
            "patient",
            one(PATIENCE),
            lambda result, error: outcome.put((result, error)),
            request_id="unary",
        )
        awaited(notes, "began unary")
        call.cancel()
        awaited(notes, "cancelled unary")
        _, error = outcome.get(timeout=PATIENCE)
        assert error.status() == "StatusCode.CANCELLED"
        assert client.infer("patient", one(0)).as_numpy("OUT")[0] == 0


def test_a_lost_connection_reaches_the_model(server: Any, notes: Path) -> None:
    client = grpcclient.InferenceServerClient(server.grpc)
    client.async_infer("patient", one(PATIENCE), ignore, request_id="lost")
    awaited(notes, "began lost")
    client.close()
    awaited(notes, "cancelled lost")


def test_a_deadline_ends_the_call_and_the_work(server: Any, notes: Path) -> None:
    with grpcclient.InferenceServerClient(server.grpc) as client:
        with pytest.raises(InferenceServerException) as caught:
            client.infer("patient", one(PATIENCE), request_id="late", client_timeout=0.1)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
        awaited(notes, "cancelled late")
        assert client.infer("patient", one(0)).as_numpy("OUT")[0] == 0


def test_a_deadline_holds_in_the_queue(server: Any, notes: Path) -> None:
    """One runs and one is handed over already; the next is answered while it waits, and never
    runs."""
    with grpcclient.InferenceServerClient(server.grpc) as client:
        first = client.async_infer("patient", one(1), ignore, request_id="first")
        awaited(notes, "began first")
        client.async_infer("patient", one(0), ignore, request_id="handed over")
        with pytest.raises(InferenceServerException) as caught:
            client.infer("patient", one(0), request_id="second", client_timeout=0.1)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
        assert not (notes / "ended first").exists()
        first.cancel()
        client.infer("patient", one(0), request_id="third")
    assert not (notes / "began second").exists()


def test_a_stream_s_deadline_is_the_server_s_too(server: Any, notes: Path) -> None:
    with Stream(server, stream_timeout=0.3) as stream:
        stream.ask("patient", one(PATIENCE), request_id="streamed")
        with pytest.raises(InferenceServerException) as caught:
            stream.take()
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    awaited(notes, "cancelled streamed")


def test_a_stopping_server_says_so_on_open_streams(
    start_server: Callable[..., Any], tmp_path: Path
) -> None:
    grpc_models.write_repeat(tmp_path)
    server = start_server(tmp_path)
    with Stream(server) as stream:
        stream.ask("rep", repeat([1, 2, 3], 200), request_id="busy")
        stream.take()
        server.process.terminate()
        stream.take()
        stream.ask("rep", repeat([9]), request_id="late")
        answers = []
        for _ in range(3):
            result, error = stream.answers.get(timeout=PATIENCE)
            answers.append(error.message() if error else result.get_response().id)
    text = "GRPC server is shutting down and has stopped accepting new requests."
    assert answers == [text, "busy", text]
    assert server.stop() == 0


# --- grpc.aio ------------------------------------------------------------------------------------


def in_asyncio(work: Any) -> Any:
    return asyncio.run(work)


def test_the_asyncio_client_streams(server: Any) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(10):
            yield {
                "model_name": "rep",
                "inputs": repeat([number, number + 1]),
                "request_id": str(number),
            }

    async def work() -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        async with grpcaio.InferenceServerClient(server.grpc) as client:
            async for result, error in client.stream_infer(requests()):
                assert error is None
                response = result.get_response()
                found.setdefault(response.id, []).append(result.as_numpy("OUT"))
        return found

    found = in_asyncio(work())
    assert sorted(found, key=int) == [str(number) for number in range(10)]
    for name, (first, second) in found.items():
        assert (first[0], second[0]) == (int(name), int(name) + 1)


def test_plain_grpc_aio_streams_many_at_once(server: Any) -> None:
    message = service_pb2.ModelInferRequest(model_name="simple", id="x")
    for name in ("INPUT0", "INPUT1"):
        message.inputs.add(name=name, datatype="INT32", shape=[1, 16])
        message.raw_input_contents.append(bytes(64))

    async def one_stream(stub: Any, count: int) -> int:
        async def requests() -> AsyncIterator[Any]:
            for _ in range(count):
                yield message

        answers = 0
        async for response in stub.ModelStreamInfer(requests()):
            assert not response.error_message
            answers += 1
        return answers

    async def work() -> list[int]:
        async with grpc.aio.insecure_channel(server.grpc) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            return await asyncio.gather(*[one_stream(stub, 50) for _ in range(8)])

    assert in_asyncio(work()) == [50] * 8
