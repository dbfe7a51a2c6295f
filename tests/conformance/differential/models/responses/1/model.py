"""What `pb_utils.InferenceResponse` and `pb_utils.TritonError` take and refuse."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from probes import ProbeModel


def Error(*args, **kwargs):
    return pb_utils.TritonError(*args, **kwargs)


def tensor():
    return pb_utils.Tensor("X", np.zeros(2, np.int32))


def made(*args, **kwargs):
    response = pb_utils.InferenceResponse(*args, **kwargs)
    return [
        [one.name() for one in response.output_tensors()],
        response.has_error(),
        response.error().message() if response.has_error() else None,
    ]


class TritonPythonModel(ProbeModel):
    def nothing(self):
        return made()

    def one(self):
        return made([tensor()])

    def keywords(self):
        return made(output_tensors=[tensor()], error=None)

    def tensors_none(self):
        return made(None)

    def tensor_none(self):
        return made([None])

    def tensor_number(self):
        return made([3])

    def error_text(self):
        return made([], "text")

    def error(self):
        return made([], Error("text"))

    def error_and_tensors(self):
        return made([tensor()], Error("text"))

    def error_of_none(self):
        return pb_utils.InferenceResponse([]).error()

    def codes(self):
        names = (
            "UNKNOWN",
            "INTERNAL",
            "NOT_FOUND",
            "INVALID_ARG",
            "UNAVAILABLE",
            "UNSUPPORTED",
            "ALREADY_EXISTS",
            "CANCELLED",
        )
        return [int(getattr(pb_utils.TritonError, name)) for name in names]

    def code_of_default(self):
        return int(Error("text").code())

    def code_of_another(self):
        return int(Error("text", pb_utils.TritonError.NOT_FOUND).code())

    def code_by_keyword(self):
        return int(Error(message="text", code=pb_utils.TritonError.CANCELLED).code())

    def error_without_text(self):
        return Error()

    def error_of_number(self):
        return Error(3)

    def error_code_number(self):
        return Error("text", 3)

    def error_code_text(self):
        return Error("text", "INTERNAL")

    def exception_is_raised(self):
        raise pb_utils.TritonModelException("on purpose")

    def exception_is_an_exception(self):
        return issubclass(pb_utils.TritonModelException, Exception)

    def parameters(self):
        response = pb_utils.InferenceResponse([], parameters={"a": 1, "b": "c", "d": True})
        return json.loads(response.parameters())

    def parameters_default(self):
        return pb_utils.InferenceResponse([]).parameters()

    def parameters_number(self):
        return pb_utils.InferenceResponse([], parameters=3)

    def parameters_key(self):
        return pb_utils.InferenceResponse([], parameters={3: "a"})

    def parameters_value(self):
        return pb_utils.InferenceResponse([], parameters={"a": []})
