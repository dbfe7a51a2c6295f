"""Python models that ask the server for other models, and for metrics, over a real server."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

SAMPLES = Path(__file__).parents[2] / "sample_repository"

CONFIG = """
backend: "python" max_batch_size: 0
input {{ name: "WORD" data_type: TYPE_STRING dims: [ 1 ] }}
output {{ name: "WORD" data_type: TYPE_STRING dims: [ 1 ] }}
instance_group {{ kind: KIND_CPU {limits} }}
"""

# Does what the word says and answers with what came of it.
ASKER = """
import asyncio, json
import numpy as np
import triton_python_backend_utils as pb_utils


def number(name, value, kind):
    return pb_utils.Tensor(name, np.array(value, kind))


def repeat(count):
    return pb_utils.InferenceRequest(
        model_name="repeat_int32", requested_output_names=["OUT"],
        inputs=[number("IN", range(count), np.int32),
                number("DELAY", [0] * count, np.uint32), number("WAIT", [0], np.uint32)],
    )


def simple(width=16, model="simple"):
    ones = np.ones((1, width), np.int32)
    return pb_utils.InferenceRequest(
        model_name=model, requested_output_names=["OUTPUT0"],
        inputs=[pb_utils.Tensor("INPUT0", ones), pb_utils.Tensor("INPUT1", ones)],
    )


def outs(responses):
    return [int(t.as_numpy()[0]) for r in responses for t in r.output_tensors()]


class TritonPythonModel:
    def initialize(self, args):
        # The server may have one place for loading, and this very model occupies it.
        pb_utils.load_model("simple")
        self.was_ready = pb_utils.is_model_ready("simple")
        self.family = pb_utils.MetricFamily(
            name="asker_words", description="Words", kind=pb_utils.MetricFamily.COUNTER)
        self.words = self.family.Metric(labels={"model": args["model_name"]})

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        word = pb_utils.get_input_tensor_by_name(request, "WORD").as_numpy()[0].decode()
        self.words.increment(1)
        try:
            found = getattr(self, word)()
        except pb_utils.TritonModelException as error:
            found = f"raised {error}"
        made = pb_utils.Tensor("WORD", np.array([json.dumps(found).encode()], object))
        return pb_utils.InferenceResponse([made])

    def ready(self):
        return self.was_ready

    def exec(self):
        response = simple().exec()
        return {t.name(): t.as_numpy().tolist() for t in response.output_tensors()}

    def at_once(self):
        async def ask():
            return await asyncio.gather(*(simple().async_exec() for _ in range(8)))
        return [r.output_tensors()[0].as_numpy()[0, 0].item() for r in asyncio.run(ask())]

    def stream(self):
        return outs(repeat(20).exec(decoupled=True))

    def plain_as_stream(self):
        return len([r for r in simple().exec(decoupled=True) if r.output_tensors()])

    def cancel(self):
        responses = repeat(1000).exec(decoupled=True)
        first = outs([next(iter(responses))])
        responses.cancel()
        return first

    def bad_shape(self):
        return simple(3).exec().error().message()

    def unknown(self):
        return simple(model="nowhere").exec().error().message()

    def decoupled_refused(self):
        return repeat(1).exec().error().message()

    def unload(self):
        pb_utils.unload_model("simple")
        error = simple().exec().error().message()
        pb_utils.load_model("simple")
        return error

    def ready_unknown(self):
        return pb_utils.is_model_ready("nowhere")

    def load_unknown(self):
        pb_utils.load_model("nowhere")
"""


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    run_server: Callable[..., AbstractContextManager[Any]],
) -> Iterator[Any]:
    repository = tmp_path_factory.mktemp("repository")
    for sample in ("simple", "repeat_int32"):
        (repository / sample).symlink_to(SAMPLES / sample)
    (repository / "asker" / "1").mkdir(parents=True)
    (repository / "asker" / "config.pbtxt").write_text(
        CONFIG.format(limits='rate_limiter { resources { name: "r" count: 1 } }')
    )
    (repository / "asker" / "1" / "model.py").write_text(ASKER)
    with run_server(
        repository,
        "--model-control-mode=explicit",
        "--load-model=asker",
        "--load-model=repeat_int32",
        "--model-load-thread-count=1",
        "--rate-limit=execution_count",
    ) as running:
        yield running


def ask(server: Any, word: str) -> Any:
    given = grpcclient.InferInput("WORD", [1], "BYTES")
    given.set_data_from_numpy(np.array([word.encode()], object))
    with grpcclient.InferenceServerClient(server.grpc) as triton:
        answer = triton.infer("asker", [given], client_timeout=20)
    return json.loads(answer.as_numpy("WORD")[0])


PREFIX = "Model {} - Error when running inference: "
DECOUPLED = (
    "Model repeat_int32 is using the decoupled. The current BLS request call doesn't support "
    "models using the decoupled transaction policy. Please use 'decoupled=True' argument to the "
    "'exec' or 'async_exec' calls for decoupled models.'"
)
HERE = "Failed to process the request for model 'asker_0_0', message: "
NOT_READY = "Failed for execute the inference request. Model '{}' is not ready."


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("ready", True),
        ("exec", {"OUTPUT0": [[2] * 16]}),
        ("at_once", [2] * 8),
        ("stream", list(range(20))),
        ("plain_as_stream", 1),
        ("cancel", [0]),
        ("unknown", PREFIX.format("nowhere") + NOT_READY.format("nowhere")),
        ("decoupled_refused", PREFIX.format("repeat_int32") + DECOUPLED),
        ("unload", PREFIX.format("simple") + NOT_READY.format("simple")),
        (
            "ready_unknown",
            (
                f"raised Failed to check model readiness: {HERE}Request for unknown model: "
                "'nowhere' is not found"
            ),
        ),
    ],
)
def test_a_model_asks_the_server(word: str, answer: object, server: Any) -> None:
    assert ask(server, word) == answer


def test_a_call_is_admitted_like_any_other(server: Any) -> None:
    message = ask(server, "bad_shape")
    assert message.startswith(
        PREFIX.format("simple") + "[request id: <id_unknown>] unexpected shape for input 'INPUT0'"
    )


def test_a_load_that_fails_is_raised(server: Any) -> None:
    assert ask(server, "load_unknown").startswith(
        f"raised Failed to load model: {HERE}failed to load 'nowhere', failed to poll from "
        "model repository"
    )


def test_metrics_of_a_model_are_on_the_page(server: Any) -> None:
    ask(server, "ready")
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=10) as response:
        page = response.read().decode()
    (line,) = [one for one in page.splitlines() if one.startswith("asker_words{")]
    assert line.startswith('asker_words{model="asker"} ')
    assert float(line.split()[-1]) >= 1
    assert "# TYPE asker_words counter" in page


def test_a_model_that_is_unknown_to_the_caller_too(server: Any) -> None:
    with pytest.raises(InferenceServerException, match="unknown model: 'nowhere' is not found"):
        grpcclient.InferenceServerClient(server.grpc).infer("nowhere", [])
