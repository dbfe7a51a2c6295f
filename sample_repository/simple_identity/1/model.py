"""OUTPUT0 = INPUT0: a vector of byte strings, returned as it came."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Answers each request by its own input under the output's name."""

    def execute(self, requests):
        responses = []
        for request in requests:
            strings = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            output = pb_utils.Tensor("OUTPUT0", strings)
            responses.append(pb_utils.InferenceResponse(output_tensors=[output]))
        return responses
