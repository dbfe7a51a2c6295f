"""Single requests: outputs, batches, identifiers, parameters, asynchronous calls, timeouts."""

from __future__ import annotations

import json
import queue
import time
from typing import Any

import numpy as np
from checks import check, expect, refused
from flavours import Flavour

# Longer than any answer takes, so that a lost one fails instead of hanging the driver.
WAIT_SECONDS = 20.0
Array = np.ndarray[Any, Any]
Statuses = tuple[int, str]

NO_ID = "[request id: <id_unknown>] "
UNKNOWN_MODEL = "Request for unknown model: 'nobody' is not found"
UNKNOWN_VERSION = "Request for unknown model: 'simple' version 9 is not found"
WRONG_TYPE = "inference input 'INPUT0' data-type is 'FP32', but model 'simple' expects 'INT32'"
WRONG_SHAPE = (
    "unexpected shape for input 'INPUT0' for model 'simple'. Expected [-1,16], got [1,8]. NOTE: "
    "Setting a non-zero max_batch_size in the model config requires a batch dimension to be "
    "prepended to each input shape. If you want to specify the full shape including the batch "
    "dim in your input dims config, try setting max_batch_size to zero. See the model "
    "configuration docs for more info on max_batch_size."
)
TOO_MANY = "inference request batch-size must be <= 8 for 'simple'"
OTHER_BATCH = "input 'INPUT%d' batch size does not match other inputs for 'simple'"
MISSING = (
    "expected 2 inputs but got 1 inputs for model 'simple'. Got input(s) ['INPUT0'], but missing "
    "required input(s) ['INPUT1']. Please provide all required input(s)."
)
SURPLUS = (
    "expected 2 inputs but got 3 inputs for model 'simple'. Got input(s) ['%s','%s','%s'], but "
    "missing required input(s) %s. Please provide all required input(s)."
)
UNEXPECTED = "unexpected inference input 'INPUT2' for model 'simple'"
NO_OUTPUT = "unexpected inference output 'OUTPUT9' for model 'simple'"


def vectors(rows: int) -> tuple[Array, Array]:
    left = np.arange(rows * 16, dtype=np.int32).reshape(rows, 16)
    return left, np.full((rows, 16), 3, np.int32)


def tensors(flavour: Flavour, rows: int = 1, *, binary: bool = True) -> list[Any]:
    left, right = vectors(rows)
    return [
        flavour.tensor("INPUT0", left, "INT32", binary=binary),
        flavour.tensor("INPUT1", right, "INT32", binary=binary),
    ]


def right_answer(result: Any, rows: int = 1) -> None:
    left, right = vectors(rows)
    assert np.array_equal(result.as_numpy("OUTPUT0"), left + right), "the sum is wrong"
    assert np.array_equal(result.as_numpy("OUTPUT1"), left - right), "the difference is wrong"


def number(flavour: Flavour, value: float) -> Any:
    return flavour.tensor("INPUT0", np.array([value], np.float32), "FP32")


@check("infer")
def all_outputs_when_none_are_listed(flavour: Flavour) -> None:
    result = flavour.call("infer", "simple", tensors(flavour))
    right_answer(result)
    found = flavour.response(result)
    expect(found["model_name"], "simple", "model_name")
    expect(found["model_version"], "1", "model_version")
    assert not found.get("id"), "an id that nobody sent"


@check("infer")
def only_the_listed_output(flavour: Flavour) -> None:
    outputs = [flavour.output("OUTPUT1")]
    result = flavour.call("infer", "simple", tensors(flavour), outputs=outputs)
    assert result.as_numpy("OUTPUT0") is None
    left, right = vectors(1)
    assert np.array_equal(result.as_numpy("OUTPUT1"), left - right)


@check("infer")
def inputs_in_another_order(flavour: Flavour) -> None:
    right_answer(flavour.call("infer", "simple", tensors(flavour)[::-1]))


@check("infer")
def a_batch_of_eight(flavour: Flavour) -> None:
    right_answer(flavour.call("infer", "simple", tensors(flavour, 8)), 8)


@check("infer")
def version_and_request_id(flavour: Flavour) -> None:
    result = flavour.call(
        "infer", "simple", tensors(flavour), model_version="1", request_id="no. 7"
    )
    expect(flavour.response(result)["id"], "no. 7", "id")


@check("infer")
def priority_and_timeout_are_taken(flavour: Flavour) -> None:
    result = flavour.call("infer", "simple", tensors(flavour), priority=1, timeout=5_000_000)
    right_answer(result)


@check("infer")
def many_requests_one_after_another(flavour: Flavour) -> None:
    for rows in (1, 5, 2, 8, 3) * 6:
        right_answer(flavour.call("infer", "simple", tensors(flavour, rows)), rows)


@check("json_data", ("http", "http.aio"))
def one_output_binary_and_one_not(flavour: Flavour) -> None:
    result = flavour.call(
        "infer",
        "simple",
        tensors(flavour, binary=False),
        outputs=[flavour.output("OUTPUT0", binary=True), flavour.output("OUTPUT1", binary=False)],
    )
    right_answer(result)
    assert "data" not in flavour.described(result, "OUTPUT0")
    expect(len(flavour.described(result, "OUTPUT1")["data"]), 16, "flat data")


@check("json_data", ("http", "http.aio"))
def one_input_binary_and_one_not(flavour: Flavour) -> None:
    mixed = [tensors(flavour, binary=False)[0], tensors(flavour, binary=True)[1]]
    right_answer(flavour.call("infer", "simple", mixed))


@check("infer", ("http", "http.aio"))
def bodies_made_and_read_apart_from_a_call(flavour: Flavour) -> None:
    body, header_length = flavour.call("generate_request_body", tensors(flavour))
    expect(json.loads(body[:header_length])["inputs"][0]["name"], "INPUT0", "request body")
    answer = {
        "model_name": "m",
        "outputs": [{"name": "O", "datatype": "INT32", "shape": [1], "data": [5]}],
    }
    result = flavour.call("parse_response_body", json.dumps(answer).encode())
    expect(result.as_numpy("O").tolist(), [5], "response body")


@check("async", ("http",))
def http_requests_in_flight_together(flavour: Flavour) -> None:
    pending = [
        flavour.call("async_infer", "simple", tensors(flavour, rows)) for rows in (1, 2, 3, 4)
    ]
    for rows, request in zip((1, 2, 3, 4), pending, strict=True):
        right_answer(request.get_result(timeout=WAIT_SECONDS), rows)


@check("async", ("grpc",))
def grpc_requests_in_flight_together(flavour: Flavour) -> None:
    answers: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    for rows in (1, 2, 3, 4):
        flavour.call(
            "async_infer",
            "simple",
            tensors(flavour, rows),
            lambda result, error, rows=rows: answers.put((rows, result, error)),
        )
    for _ in range(4):
        rows, result, error = answers.get(timeout=WAIT_SECONDS)
        assert error is None, error
        right_answer(result, rows)


@check("async", ("http.aio", "grpc.aio"))
def asyncio_requests_in_flight_together(flavour: Flavour) -> None:
    import asyncio

    async def together() -> list[Any]:
        calls = [flavour.client.infer("simple", tensors(flavour, rows)) for rows in (1, 2, 3, 4)]
        return list(await asyncio.gather(*calls))

    for rows, result in zip((1, 2, 3, 4), flavour.wait(together()), strict=True):
        right_answer(result, rows)


@check("parameters")
def parameters_of_every_kind_reach_the_model(flavour: Flavour) -> None:
    sent = {"a": 1, "b": True, "d": "x"}
    result = flavour.call("infer", "parameters", [number(flavour, 0)], parameters=sent)
    (found,) = result.as_numpy("OUTPUT0")
    expect(json.loads(found), sent, "parameters")


@check("headers")
def headers_of_the_client_and_of_a_plugin(flavour: Flavour) -> None:
    from importlib import import_module

    auth: Any = import_module(f"{flavour.module.__name__}.auth")
    plugin = auth.BasicAuth("someone", "secret")
    flavour.call("register_plugin", plugin)
    try:
        expect(flavour.call("plugin") is plugin, True, "the plugin")
        right_answer(flavour.call("infer", "simple", tensors(flavour), headers={"x-trace": "1"}))
        expect(flavour.call("is_server_live", headers={"x-trace": "1"}), True, "live")
    finally:
        flavour.call("unregister_plugin")


@check("timeouts", ("grpc", "grpc.aio"))
def a_deadline_of_the_client(flavour: Flavour) -> None:
    began = time.monotonic()
    refused(
        flavour,
        "Deadline Exceeded",
        http=0,
        grpc="DEADLINE_EXCEEDED",
        call=lambda: flavour.call("infer", "sleep", [number(flavour, 1.0)], client_timeout=0.2),
    )
    assert time.monotonic() - began < 0.9, "the call outlived its deadline"
    expect(
        flavour.call("infer", "sleep", [number(flavour, 0)]).as_numpy("OUTPUT0").item(), 0, "then"
    )


@check("timeouts", ("grpc",))
def a_call_is_cancelled(flavour: Flavour) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    context = flavour.call(
        "async_infer",
        "sleep",
        [number(flavour, 1.0)],
        lambda result, error: answers.put((result, error)),
    )
    context.cancel()
    result, error = answers.get(timeout=WAIT_SECONDS)
    assert result is None
    expect(error.status(), "StatusCode.CANCELLED", "status")
    expect(
        flavour.call("infer", "sleep", [number(flavour, 0)]).as_numpy("OUTPUT0").item(), 0, "then"
    )


@check("errors")
def requests_that_do_not_fit_the_model(flavour: Flavour) -> None:
    left, _ = vectors(1)
    good = tensors(flavour)

    def infer(inputs: list[Any], **options: Any) -> Any:
        return lambda: flavour.call("infer", options.pop("model", "simple"), inputs, **options)

    invalid, absent = (400, "INVALID_ARGUMENT"), (404, "NOT_FOUND")
    nine = vectors(9)[0]
    wrong_type = [flavour.tensor("INPUT0", left.astype(np.float32), "FP32"), good[1]]
    wrong_shape = [flavour.tensor("INPUT0", left[:, :8], "INT32"), good[1]]
    too_many = [flavour.tensor(name, nine, "INT32") for name in ("INPUT0", "INPUT1")]
    two_and_one = [flavour.tensor("INPUT0", vectors(2)[0], "INT32"), good[1]]
    surplus = [*good, flavour.tensor("INPUT2", left, "INT32")]
    expected: tuple[tuple[Any, tuple[str, ...], Statuses], ...] = (
        (infer(good, model="nobody"), (UNKNOWN_MODEL,), absent),
        (infer(good, model_version="9"), (UNKNOWN_VERSION,), absent),
        (infer(wrong_type, request_id="q"), (f"[request id: q] {WRONG_TYPE}",), invalid),
        (infer(wrong_type), (f"{NO_ID}{WRONG_TYPE}",), invalid),
        (infer(wrong_shape), (f"{NO_ID}{WRONG_SHAPE}",), invalid),
        (infer(too_many), (f"{NO_ID}{TOO_MANY}",), invalid),
        # Triton walks through the inputs in no set order.
        (infer(two_and_one), tuple(f"{NO_ID}{OTHER_BATCH % n}" for n in (0, 1)), invalid),
        (infer(good[:1]), (f"{NO_ID}{MISSING}",), invalid),
        (infer([good[0], surplus[2]]), (UNEXPECTED,), invalid),
        (infer(good, outputs=[flavour.output("OUTPUT9")]), (NO_OUTPUT,), invalid),
    )
    for call, texts, (http, grpc) in expected:
        refused(flavour, *texts, http=http, grpc=grpc, call=call)
    refused(
        flavour,
        f"{NO_ID}{SURPLUS % ('INPUT0', 'INPUT1', 'INPUT2', '[]')}",
        http=400,
        grpc="INVALID_ARGUMENT",
        call=infer(surplus),
        # It lists the inputs in no set order, and forgets a bracket.
        older=(
            f"{NO_ID}{SURPLUS % ('INPUT2', 'INPUT1', 'INPUT0', ']')}",
            400,
            "INVALID_ARGUMENT",
        ),
    )


@check("errors")
def a_model_refuses_a_request(flavour: Flavour) -> None:
    refused(
        flavour,
        "negative",
        http=400,
        grpc="INVALID_ARGUMENT",
        call=lambda: flavour.call("infer", "refuse", [number(flavour, -1)]),
    )
    expect(
        flavour.call("infer", "refuse", [number(flavour, 2)]).as_numpy("OUTPUT0").item(), 2, "then"
    )


@check("decoupled_errors")
def decoupled_models_need_a_stream(flavour: Flavour) -> None:
    inputs = [
        flavour.tensor("IN", np.array([1], np.int32), "INT32"),
        flavour.tensor("DELAY", np.array([0], np.uint32), "UINT32"),
        flavour.tensor("WAIT", np.array([0], np.uint32), "UINT32"),
    ]
    kind = "HTTP end point" if flavour.http else "ModelInfer RPC"
    refused(
        flavour,
        f"{kind} doesn't support models with decoupled transaction policy",
        http=501,
        grpc="UNIMPLEMENTED",
        call=lambda: flavour.call("infer", "repeat_int32", inputs),
    )
