"""Fails every request with the code that it asks for."""

import triton_python_backend_utils as pb_utils

NAMES = (
    "UNKNOWN",
    "INTERNAL",
    "NOT_FOUND",
    "INVALID_ARG",
    "UNAVAILABLE",
    "UNSUPPORTED",
    "ALREADY_EXISTS",
    "CANCELLED",
)


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            code = int(pb_utils.get_input_tensor_by_name(request, "CODE").as_numpy()[0])
            name = NAMES[code]
            error = pb_utils.TritonError(f"code {code}", getattr(pb_utils.TritonError, name))
            responses.append(pb_utils.InferenceResponse([], error))
        return responses
