"""OUTPUT = INPUT, 1 more on the first request of a sequence, its number more on the last."""

from __future__ import annotations

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Answers each request by itself: INT32 [batch, 1], controls of the same shape."""

    def execute(self, requests):
        responses = []
        for request in requests:
            value, start, end, number = (
                pb_utils.get_input_tensor_by_name(request, name).as_numpy().reshape(-1, 1)
                for name in ("INPUT", "START", "END", "CORRID")
            )
            total = value + start + end * number.astype(np.int32)
            output = pb_utils.Tensor("OUTPUT", total.astype(np.int32))
            responses.append(pb_utils.InferenceResponse(output_tensors=[output]))
        return responses
