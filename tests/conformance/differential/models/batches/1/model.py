"""Says how many requests came together; a negative value is an error of that request alone."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            array = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            if array.min() < 0:
                error = pb_utils.TritonError(
                    f"value {array.min()}", pb_utils.TritonError.INVALID_ARG
                )
                responses.append(pb_utils.InferenceResponse([], error))
                continue
            count = np.full((array.shape[0], 1), len(requests), np.int32)
            responses.append(
                pb_utils.InferenceResponse(
                    [pb_utils.Tensor("Y", array * 2), pb_utils.Tensor("COUNT", count)]
                )
            )
        return responses
