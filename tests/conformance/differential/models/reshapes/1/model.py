"""Sees its inputs, and gives its outputs, in other shapes than clients do."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            array = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            shape = np.array([array.shape], np.int64)
            responses.append(
                pb_utils.InferenceResponse(
                    [pb_utils.Tensor("Y", array + 1), pb_utils.Tensor("SHAPE", shape)]
                )
            )
        return responses
