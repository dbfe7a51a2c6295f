"""OUT = IN, INT32 [1], ten times for each request."""

from __future__ import annotations

import triton_python_backend_utils as pb_utils

RESPONSES = 10


class TritonPythonModel:
    """Sends through each request's sender and returns nothing, as decoupled models do."""

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> None:
        for request in requests:
            array = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            sender = request.get_response_sender()
            for _ in range(RESPONSES):
                output = pb_utils.Tensor("OUT", array)
                sender.send(pb_utils.InferenceResponse(output_tensors=[output]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
