"""Asks for its request again until it has counted down."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.left = None

    def execute(self, requests):
        responses = []
        for request in requests:
            if self.left is None:
                self.left = int(pb_utils.get_input_tensor_by_name(request, "X").as_numpy()[0, 0])
                self.steps = 0
            self.steps += 1
            if self.left == 13:
                self.left = None
                raise ValueError("thirteen")
            if self.left > 0:
                self.left -= 1
                request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
                responses.append(None)
                continue
            self.left = None
            text = np.array([[f"{self.steps} steps".encode()]], np.object_)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("ANSWER", text)]))
        return responses
