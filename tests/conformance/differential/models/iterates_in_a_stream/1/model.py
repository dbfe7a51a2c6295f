"""A decoupled model that sends a response in each of several executions of one request."""

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def initialize(self, args):
        self.left = None

    def execute(self, requests):
        (request,) = requests
        if self.left is None:
            self.left = int(pb_utils.get_input_tensor_by_name(request, "X").as_numpy()[0, 0])
        text = np.array([[str(self.left).encode()]], np.object_)
        response = pb_utils.InferenceResponse([pb_utils.Tensor("ANSWER", text)])
        sender = request.get_response_sender()
        self.left -= 1
        if self.left < 0:
            self.left = None
            sender.send(response, FINAL)
            return
        sender.send(response)
        request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
