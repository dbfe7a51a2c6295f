"""OUTPUT = INPUT, and 1 more on the first request of a sequence; INT32 [batch, 1]."""

from __future__ import annotations

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Answers each request by itself; a slot without a request is answered too."""

    def execute(self, requests):
        responses = []
        for request in requests:
            value = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()
            start = pb_utils.get_input_tensor_by_name(request, "START").as_numpy()
            output = pb_utils.Tensor("OUTPUT", value + start.reshape(value.shape))
            responses.append(pb_utils.InferenceResponse(output_tensors=[output]))
        return responses
