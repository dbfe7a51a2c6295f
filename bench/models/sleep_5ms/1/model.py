"""OUTPUT0 = INPUT0, FP32 [batch, 16], after 5 ms for the whole batch."""

from __future__ import annotations

import time

import triton_python_backend_utils as pb_utils

SLEEP_SECONDS = 0.005


class TritonPythonModel:
    """Stands for an accelerator: busy for a while, without using the CPU."""

    def execute(
        self, requests: list[pb_utils.InferenceRequest]
    ) -> list[pb_utils.InferenceResponse]:
        time.sleep(SLEEP_SECONDS)
        responses = []
        for request in requests:
            array = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            output = pb_utils.Tensor("OUTPUT0", array)
            responses.append(pb_utils.InferenceResponse(output_tensors=[output]))
        return responses
