"""gRPC streams, decoupled models, and sequences over every flavour."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
from check_infer import WAIT_SECONDS, number, right_answer, tensors
from checks import check, expect, refused
from flavours import Flavour

GRPC = ("grpc", "grpc.aio")
Request = dict[str, Any]
Answer = tuple[Any, Any]


def streamed(
    flavour: Flavour, requests: Sequence[Request], count: int, **options: Any
) -> list[Answer]:
    """Sends the requests over one stream; its first `count` answers, as (result, error)."""
    if flavour.aio:
        return list(flavour.wait(_streamed_by_asyncio(flavour, requests, count, options)))
    answers: queue.Queue[Answer] = queue.Queue()
    flavour.call(
        "start_stream", callback=lambda result, error: answers.put((result, error)), **options
    )
    try:
        for request in requests:
            flavour.call("async_stream_infer", **request)
        return [answers.get(timeout=WAIT_SECONDS) for _ in range(count)]
    finally:
        flavour.call("stop_stream")


async def _streamed_by_asyncio(
    flavour: Flavour, requests: Sequence[Request], count: int, options: dict[str, Any]
) -> list[Answer]:
    import asyncio

    async def outgoing() -> AsyncIterator[Request]:
        for request in requests:
            yield request
        # The stream stays open until all the answers have come.
        await enough.wait()

    enough = asyncio.Event()
    flavour.called.add("stream_infer")
    found: list[Answer] = []
    answers = flavour.client.stream_infer(outgoing(), **options)
    async with asyncio.timeout(WAIT_SECONDS):
        async for answer in answers:
            found.append(answer)
            if len(found) >= count:
                enough.set()
    return found


def repeat(
    flavour: Flavour,
    values: Sequence[int],
    *,
    request_id: str,
    delay: int = 0,
    empty_final: bool = False,
) -> Request:
    """A request for one response per value, `delay` ms apart, and perhaps an empty final one."""
    inputs = [
        flavour.tensor("IN", np.array(values, np.int32), "INT32"),
        flavour.tensor("DELAY", np.full(len(values), delay, np.uint32), "UINT32"),
        flavour.tensor("WAIT", np.array([0], np.uint32), "UINT32"),
    ]
    request: Request = {"model_name": "repeat_int32", "inputs": inputs, "request_id": request_id}
    if empty_final:
        # The asyncio client cannot ask for it.
        request["enable_empty_final_response"] = True
    return request


def is_final(result: Any) -> bool | None:
    """The response's own mark, None where there is none."""
    parameters = result.get_response().parameters
    if "triton_final_response" not in parameters:
        return None
    return bool(parameters["triton_final_response"].bool_param)


@check("stream", GRPC)
def answers_come_in_order(flavour: Flavour) -> None:
    requests = [
        {"model_name": "simple", "inputs": tensors(flavour, rows), "request_id": str(rows)}
        for rows in (1, 2, 3, 4)
    ]
    requests.insert(
        0, {"model_name": "sleep", "inputs": [number(flavour, 0.3)], "request_id": "slow"}
    )
    answers = streamed(flavour, requests, 5)
    ids = []
    for result, error in answers:
        assert error is None, error
        ids.append(result.get_response().id)
    expect(ids, ["slow", "1", "2", "3", "4"], "order")
    for rows in (1, 2, 3, 4):
        right_answer(answers[rows][0], rows)
        expect(is_final(answers[rows][0]), True, "final mark")


@check("stream", GRPC)
def an_error_leaves_the_stream_open(flavour: Flavour) -> None:
    bad = [flavour.tensor("INPUT0", np.zeros((1, 8), np.int32), "INT32"), tensors(flavour)[1]]
    requests = [
        {"model_name": "simple", "inputs": tensors(flavour)},
        {"model_name": "simple", "inputs": bad, "request_id": "bad"},
        {"model_name": "nobody", "inputs": tensors(flavour)},
        {"model_name": "refuse", "inputs": [number(flavour, -1)]},
        {"model_name": "simple", "inputs": tensors(flavour, 2)},
    ]
    answers = streamed(flavour, requests, 5)
    messages = [None if error is None else error.message() for _, error in answers]
    # What cannot be enqueued is answered at once and may overtake what was.
    beginnings = {None if text is None else text.split(" for ")[0] for text in messages}
    expect(
        beginnings,
        {None, "[request id: bad] unexpected shape", "Request", "negative"},
        "the messages",
    )
    expect(messages.count(None), 2, "right answers")
    right_answer(answers[-1][0], 2)


@check("stream", GRPC)
def a_compressed_stream(flavour: Flavour) -> None:
    for algorithm in ("gzip", "deflate"):
        request = {"model_name": "simple", "inputs": tensors(flavour, 8)}
        ((result, error),) = streamed(flavour, [request], 1, compression_algorithm=algorithm)
        assert error is None, error
        right_answer(result, 8)


@check("decoupled", GRPC)
def as_many_responses_as_the_model_sends(flavour: Flavour) -> None:
    answers = streamed(flavour, [repeat(flavour, [7, 5, 3, 0], request_id="r")], 4)
    for index, (value, (result, error)) in enumerate(zip((7, 5, 3, 0), answers, strict=True)):
        assert error is None, error
        expect(result.as_numpy("OUT").tolist(), [value], "value")
        expect(result.as_numpy("IDX").tolist(), [index], "index")
        expect(result.get_response().id, "r", "id")
        expect(is_final(result), False, "final mark")


@check("decoupled", ("grpc",))
def an_empty_final_response_if_asked_for(flavour: Flavour) -> None:
    request = repeat(flavour, [7, 5], request_id="r", empty_final=True)
    answers = streamed(flavour, [request], 3)
    for _, error in answers:
        assert error is None, error
    expect([is_final(result) for result, _ in answers], [False, False, True], "final marks")
    last = answers[-1][0].get_response()
    expect((last.id, last.model_name, len(last.outputs)), ("r", "repeat_int32", 0), "the last")


@check("decoupled", ("grpc",))
def only_a_final_response(flavour: Flavour) -> None:
    request = repeat(flavour, [], request_id="none", empty_final=True)
    ((result, error),) = streamed(flavour, [request], 1)
    assert error is None, error
    expect((is_final(result), len(result.get_response().outputs)), (True, 0), "the answer")


@check("decoupled", GRPC)
def each_request_keeps_its_own_order(flavour: Flavour) -> None:
    requests = [
        repeat(flavour, list(range(5)), delay=20, request_id="a"),
        repeat(flavour, list(range(10, 15)), delay=5, request_id="b"),
    ]
    by_id: dict[str, list[int]] = {"a": [], "b": []}
    for result, error in streamed(flavour, requests, 10):
        assert error is None, error
        by_id[result.get_response().id].append(result.as_numpy("OUT").item())
    expect(by_id, {"a": list(range(5)), "b": list(range(10, 15))}, "values")


@check("decoupled", ("grpc",))
def a_stream_is_cancelled(flavour: Flavour) -> None:
    answers: queue.Queue[Answer] = queue.Queue()
    flavour.call("start_stream", callback=lambda result, error: answers.put((result, error)))
    flavour.call(
        "async_stream_infer", **repeat(flavour, list(range(100)), delay=50, request_id="long")
    )
    _, error = answers.get(timeout=WAIT_SECONDS)
    assert error is None, error
    flavour.call("stop_stream", cancel_requests=True)
    while error is None:
        _, error = answers.get(timeout=WAIT_SECONDS)
    expect(error.status(), "StatusCode.CANCELLED", "status")
    right_answer(flavour.call("infer", "simple", tensors(flavour)))


def step(flavour: Flavour, value: int) -> list[Any]:
    return [flavour.tensor("INPUT", np.array([[value]], np.int32), "INT32")]


def two_sequences(flavour: Flavour, model: str, one: int | str, two: int | str) -> None:
    """Two interleaved sequences must each get their own sums."""
    sums = {one: 0, two: 0}
    for index, value in enumerate((5, 7, 11)):
        for sequence, sign in ((one, 1), (two, -1)):
            result = flavour.call(
                "infer",
                model,
                step(flavour, sign * value),
                sequence_id=sequence,
                sequence_start=index == 0,
                sequence_end=index == 2,
            )
            sums[sequence] += sign * value
            expect(result.as_numpy("OUTPUT").item(), sums[sequence], f"sum of {sequence}")


@check("sequence")
def two_numbered_sequences_keep_their_own_state(flavour: Flavour) -> None:
    two_sequences(flavour, "accumulate", 1001, 1002)


@check("named_sequence")
def two_named_sequences_keep_their_own_state(flavour: Flavour) -> None:
    two_sequences(flavour, "accumulate_named", "one", "two")


@check("sequence", GRPC)
def a_sequence_over_a_stream(flavour: Flavour) -> None:
    requests = [
        {
            "model_name": "accumulate",
            "inputs": step(flavour, value),
            "sequence_id": 2001,
            "sequence_start": index == 0,
            "sequence_end": index == 3,
        }
        for index, value in enumerate((1, 10, 100, 1000))
    ]
    found = []
    for result, error in streamed(flavour, requests, 4):
        assert error is None, error
        found.append(result.as_numpy("OUTPUT").item())
    expect(found, [1, 11, 111, 1111], "sums")


@check("sequence")
def mistakes_with_sequences(flavour: Flavour) -> None:
    refused(
        flavour,
        "inference request to model 'accumulate' must specify a non-zero or non-empty "
        "correlation ID",
        "[request id: <id_unknown>] inference request to model 'accumulate' must specify a "
        "non-zero or non-empty correlation ID",
        http=400,
        grpc="INVALID_ARGUMENT",
        call=lambda: flavour.call("infer", "accumulate", step(flavour, 1)),
    )
    refused(
        flavour,
        "inference request for sequence 3001 to model 'accumulate' must specify the START flag "
        "on the first request of the sequence",
        "[request id: <id_unknown>] inference request for sequence 3001 to model 'accumulate' "
        "must specify the START flag on the first request of the sequence",
        http=400,
        grpc="INVALID_ARGUMENT",
        call=lambda: flavour.call("infer", "accumulate", step(flavour, 1), sequence_id=3001),
    )
