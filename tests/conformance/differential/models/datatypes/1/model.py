"""Gives every input back as numpy has it, and says which datatype it had."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            outputs = []
            for tensor in request.inputs():
                array = tensor.as_numpy()
                outputs.append(pb_utils.Tensor(tensor.name().replace("X_", "Y_"), array))
                outputs.append(pb_utils.Tensor("DTYPE", np.array([str(array.dtype)], np.object_)))
            responses.append(pb_utils.InferenceResponse(outputs))
        return responses
