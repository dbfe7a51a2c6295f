"""Asks other models."""

import asyncio

import numpy as np
import triton_python_backend_utils as pb_utils
from probes import ProbeModel, attempt


def text(value):
    return pb_utils.Tensor("WORD", np.array([value.encode()], np.object_))


def probe(model, word, **more):
    return pb_utils.InferenceRequest(
        model_name=model, requested_output_names=["ANSWER"], inputs=[text(word)], **more
    )


def facts(response):
    if response.has_error():
        return ["error", response.error().message(), int(response.error().code())]
    return [
        [tensor.name(), list(tensor.shape()), [bytes(one).decode() for one in tensor.as_numpy()]]
        for tensor in response.output_tensors()
    ]


def numbers(array, **more):
    return pb_utils.InferenceRequest(
        model_name="datatypes",
        requested_output_names=["Y_INT32"],
        inputs=[pb_utils.Tensor("X_INT32", array)],
        **more,
    )


class TritonPythonModel(ProbeModel):
    def initialize(self, args):
        self.in_initialize = attempt(lambda: facts(probe("streams", "one").exec()))

    def before_execution(self):
        return self.in_initialize

    def plain(self):
        return facts(probe("async_model", "hello").exec())

    def twice(self):
        request = probe("async_model", "hello")
        return [facts(request.exec()), facts(request.exec())]

    def numbers(self):
        (tensor,) = numbers(np.arange(5, dtype=np.int32)).exec().output_tensors()
        return [tensor.name(), tensor.as_numpy().tolist(), tensor.is_cpu()]

    def no_elements(self):
        (tensor,) = numbers(np.empty((0,), np.int32)).exec().output_tensors()
        return [list(tensor.shape()), tensor.as_numpy().tolist()]

    def large(self):
        (tensor,) = numbers(np.arange(300_000, dtype=np.int32)).exec().output_tensors()
        return int(tensor.as_numpy().sum(dtype=np.int64))

    def in_cpu_memory(self):
        memory = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)
        (tensor,) = (
            numbers(np.arange(2, dtype=np.int32), preferred_memory=memory).exec().output_tensors()
        )
        return tensor.is_cpu()

    def all_outputs(self):
        request = pb_utils.InferenceRequest(
            model_name="datatypes",
            requested_output_names=[],
            inputs=[pb_utils.Tensor("X_INT8", np.zeros(1, np.int8))],
        )
        return sorted(tensor.name() for tensor in request.exec().output_tensors())

    def unknown_output(self):
        request = pb_utils.InferenceRequest(
            model_name="datatypes",
            requested_output_names=["NOTHING"],
            inputs=[pb_utils.Tensor("X_INT8", np.zeros(1, np.int8))],
        )
        return facts(request.exec())

    def at_once(self):
        async def ask():
            asked = [probe("async_model", f"n{number}").async_exec() for number in range(4)]
            return [facts(response) for response in await asyncio.gather(*asked)]

        return asyncio.run(ask())

    def fails_there(self):
        return facts(probe("raises", "value_error").exec())

    def refused_there(self):
        return facts(
            pb_utils.InferenceRequest(
                model_name="error_codes",
                requested_output_names=["ANSWER"],
                inputs=[pb_utils.Tensor("CODE", np.array([2], np.int32))],
            ).exec()
        )

    def cancelled_there(self):
        return facts(
            pb_utils.InferenceRequest(
                model_name="error_codes",
                requested_output_names=["ANSWER"],
                inputs=[pb_utils.Tensor("CODE", np.array([7], np.int32))],
            ).exec()
        )

    def unknown_model(self):
        return facts(probe("nowhere", "x").exec())

    def unknown_version(self):
        return facts(probe("async_model", "x", model_version=9).exec())

    def own_version(self):
        return facts(probe("async_model", "x", model_version=1).exec())

    def missing_input(self):
        return facts(
            pb_utils.InferenceRequest(
                model_name="async_model", requested_output_names=["ANSWER"], inputs=[]
            ).exec()
        )

    def wrong_input(self):
        return facts(
            pb_utils.InferenceRequest(
                model_name="async_model",
                requested_output_names=["ANSWER"],
                inputs=[text("x"), pb_utils.Tensor("MORE", np.zeros(1, np.int8))],
            ).exec()
        )

    def wrong_datatype(self):
        return facts(
            pb_utils.InferenceRequest(
                model_name="async_model",
                requested_output_names=["ANSWER"],
                inputs=[pb_utils.Tensor("WORD", np.zeros(1, np.int8))],
            ).exec()
        )

    def wrong_shape(self):
        return facts(
            pb_utils.InferenceRequest(
                model_name="async_model",
                requested_output_names=["ANSWER"],
                inputs=[pb_utils.Tensor("WORD", np.array([b"a", b"b"], np.object_))],
            ).exec()
        )

    def carried_over(self):
        request = pb_utils.InferenceRequest(
            model_name="received",
            requested_output_names=["ANSWER"],
            request_id="inner",
            correlation_id=9,
            flags=3,
            parameters={"a": 1, "b": "x", "c": True},
            inputs=[pb_utils.Tensor("A", np.zeros((1, 2), np.float32))],
        )
        return facts(request.exec())

    def parameters_back(self):
        response = probe("response_parameters", "x", parameters={"mine": 5}).exec()
        return response.parameters()

    def stream_refused(self):
        return facts(probe("streams", "three").exec())

    def stream(self):
        return [facts(one) for one in probe("streams", "three").exec(decoupled=True)]

    def stream_twice(self):
        responses = probe("streams", "three_with_final").exec(decoupled=True)
        return [[facts(one) for one in responses], [facts(one) for one in responses]]

    def stream_of_nothing(self):
        return [facts(one) for one in probe("streams", "nothing").exec(decoupled=True)]

    def stream_of_errors(self):
        return [facts(one) for one in probe("streams", "error_between").exec(decoupled=True)]

    def stream_of_many(self):
        responses = list(probe("streams", "many").exec(decoupled=True))
        return [len(responses), facts(responses[49])]

    def stream_of_one(self):
        return [facts(one) for one in probe("async_model", "x").exec(decoupled=True)]

    def stream_of_unknown(self):
        return [facts(one) for one in probe("nowhere", "x").exec(decoupled=True)]

    def stream_async(self):
        async def ask():
            responses = await probe("streams", "three").async_exec(decoupled=True)
            return [facts(one) for one in responses]

        return asyncio.run(ask())

    def stream_dropped(self):
        responses = probe("streams", "many").exec(decoupled=True)
        first = facts(next(iter(responses)))
        del responses
        return first

    def decoupled_number(self):
        return probe("streams", "one").exec(decoupled=3)

    def timeout(self):
        return facts(probe("async_model", "x", timeout=1_000_000).exec())

    def stream_that_raises(self):
        return [facts(one) for one in probe("streams", "raises_after_one").exec(decoupled=True)]
